-- FlexiPrice's tables. Can be run again: it creates what is missing and changes nothing else.

CREATE TABLE IF NOT EXISTS products (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku        text NOT NULL UNIQUE,
    name       text NOT NULL,
    base_price numeric(10, 2) NOT NULL CHECK (base_price > 0)
);

CREATE TABLE IF NOT EXISTS batches (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id integer NOT NULL REFERENCES products (id),
    lot        text NOT NULL,
    quantity   integer NOT NULL CHECK (quantity >= 0),
    expires_on date NOT NULL,
    UNIQUE (product_id, lot)
);

CREATE INDEX IF NOT EXISTS batches_expires_on ON batches (expires_on);

CREATE TABLE IF NOT EXISTS discounts (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id    integer NOT NULL REFERENCES batches (id),
    percent     smallint NOT NULL CHECK (percent BETWEEN 1 AND 99),
    price       numeric(10, 2) NOT NULL CHECK (price >= 0),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'expired')),
    valid_until date NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    computed_at timestamptz NOT NULL DEFAULT now(),
    expired_at  timestamptz,
    CHECK ((status = 'expired') = (expired_at IS NOT NULL))
);

-- A batch has any number of past discounts, and at most one that counts.
CREATE UNIQUE INDEX IF NOT EXISTS discounts_one_active
    ON discounts (batch_id) WHERE status = 'active';

CREATE TABLE IF NOT EXISTS price_history (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id  integer NOT NULL REFERENCES products (id),
    slot        timestamptz NOT NULL,
    base_price  numeric(10, 2) NOT NULL,
    price       numeric(10, 2) NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product_id, slot)
);

-- One row for each attempt at a run of app.tasks.record_run.
CREATE TABLE IF NOT EXISTS task_runs (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id         text NOT NULL,
    attempt        integer NOT NULL,
    task_id        text NOT NULL,
    node           text NOT NULL,
    pid            integer NOT NULL,
    is_redelivered boolean NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at    timestamptz,
    UNIQUE (run_id, attempt)
);

-- One row for each call of app.tasks.record_tick.
CREATE TABLE IF NOT EXISTS task_ticks (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source    text NOT NULL,
    task_id   text NOT NULL,
    node      text NOT NULL,
    ticked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX IF NOT EXISTS task_ticks_ticked_at ON task_ticks (ticked_at);
