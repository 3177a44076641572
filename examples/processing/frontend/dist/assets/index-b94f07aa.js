// Stands for what a build of Vue leaves: the addresses are placeholders, and are put in where it is served.
const API_ROOT = "VITE_APP_API_ROOT_PLACEHOLDER";

const api = {
  async ask(path, options) {
    const response = await fetch(API_ROOT + path, options);
    const data = await response.json();
    if (!response.ok) {
      throw new Error(typeof data.detail === "string" ? data.detail : JSON.stringify(data.detail));
    }
    return { data };
  },
  getOperations: () => api.ask("/operations"),
  getStatus: (id) => api.ask(`/requests/${id}/status`),
  getResult: (id) => api.ask(`/requests/${id}/result`),
  create: (body) =>
    api.ask("/requests", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }),
};

const form = document.getElementById("request");
const statusLine = document.getElementById("status");
const resultText = document.getElementById("result");
const outputLink = document.getElementById("output");

function show(text, failed = false) {
  statusLine.textContent = text;
  statusLine.classList.toggle("failed", failed);
}

function showError(message) {
  show(`failed: ${message}`, true);
}

async function fetchResults(requestId) {
  const response = await api.getResult(requestId);
  resultText.textContent = JSON.stringify(response.data.data, null, 2);
  outputLink.href = `${API_ROOT}/requests/${requestId}/output`;
  outputLink.hidden = false;
}

// Poll for task completion
function pollStatus(requestId) {
  const pollInterval = setInterval(async () => {
    let response;
    try {
      response = await api.getStatus(requestId);
    } catch (error) {
      // A deploy, say: the next look may be answered.
      show(`request ${requestId}: no answer (${error.message}), asking again`);
      return;
    }
    show(`request ${requestId}: ${response.data.status}`);
    if (response.data.status === "completed") {
      clearInterval(pollInterval);
      await fetchResults(requestId).catch((error) => showError(error.message));
    } else if (response.data.status === "failed") {
      clearInterval(pollInterval);
      showError(response.data.error_message);
    }
    // Continue polling for 'pending' or 'processing'
  }, 2000); // Poll every 2 seconds
}

function readRows(text) {
  return text
    .split("\n")
    .filter((line) => line.trim())
    .map((line) => {
      const cut = line.lastIndexOf(",");
      return { name: line.slice(0, cut).trim(), value: Number(line.slice(cut + 1)) };
    });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  resultText.textContent = "";
  outputLink.hidden = true;
  const fields = new FormData(form);
  try {
    const response = await api.create({
      operation: fields.get("operation"),
      data: { rows: readRows(fields.get("rows")) },
    });
    show(`request ${response.data.id}: ${response.data.status}`);
    pollStatus(response.data.id);
  } catch (error) {
    showError(error.message);
  }
});

api
  .getOperations()
  .then((response) => {
    for (const { name, description } of response.data.operations) {
      form.elements.operation.append(new Option(`${name}: ${description}`, name));
    }
  })
  .catch((error) => showError(error.message));
