// Runs the page's own script without a browser: this is the part of one that it uses. Standard input says, as JSON, which
// script, against which site, what is in the form and which requests get no answer. It ends when the script has nothing
// left to do, and prints what was asked, when, and what the page said.
const config = JSON.parse(require("fs").readFileSync(0, "utf8"));
const asked = [];
const said = [];

function element(id) {
  const made = {
    listeners: {},
    hidden: true,
    href: "",
    text: "",
    classList: { toggle() {} },
    elements: { operation: { choices: [], append(option) { this.choices.push(option.value); } } },
    addEventListener(name, listener) { this.listeners[name] = listener; },
  };
  Object.defineProperty(made, "textContent", {
    get() { return this.text; },
    set(text) {
      this.text = text;
      if (id === "status") said.push(text);
    },
  });
  return made;
}

const elements = {};
globalThis.document = { getElementById: (id) => (elements[id] ??= element(id)) };
globalThis.Option = class { constructor(text, value) { this.value = value; } };
globalThis.FormData = class { get(name) { return config.form[name]; } };

const send = globalThis.fetch;
globalThis.fetch = async (path, options = {}) => {
  asked.push({ method: options.method ?? "GET", path, at: Date.now() / 1000 });
  if (config.unanswered.includes(asked.length)) throw new TypeError("fetch failed");
  return send(config.site + path, {
    ...options,
    headers: { ...options.headers, Authorization: config.authorization },
  });
};

process.on("exit", () => {
  const { result, output, request } = elements;
  const choices = request.elements.operation.choices;
  console.log(JSON.stringify({ asked, said, choices, result: result.text, output: output.href }));
});
(0, eval)(config.script);
// Its first question is for the operations; a person fills in the form after that.
setTimeout(() => elements.request.listeners.submit({ preventDefault() {} }), 1000);
