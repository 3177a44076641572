-- The record of the proof of restarts. Times are seconds of the epoch, taken by the processes themselves: all hosts
-- are containers of one machine and share its clock.
CREATE TABLE IF NOT EXISTS sends (
    task text PRIMARY KEY,
    run text NOT NULL,
    kind text NOT NULL,
    queue text NOT NULL,
    seconds double precision NOT NULL,
    attempts integer NOT NULL,
    sent double precision NOT NULL,
    ready double precision,
    refused boolean NOT NULL
);
CREATE INDEX IF NOT EXISTS sends_run ON sends (run);
CREATE TABLE IF NOT EXISTS runs (
    id bigserial PRIMARY KEY,
    task text NOT NULL,
    attempt integer NOT NULL,
    node text NOT NULL,
    pid integer NOT NULL,
    started double precision NOT NULL,
    message text NOT NULL,
    ended double precision,
    retry_at double precision
);
CREATE INDEX IF NOT EXISTS runs_task ON runs (task);
CREATE TABLE IF NOT EXISTS workers (
    id bigserial PRIMARY KEY,
    node text NOT NULL,
    pid integer NOT NULL,
    event text NOT NULL,
    queues text[] NOT NULL,
    processes integer NOT NULL,
    at double precision NOT NULL
);
CREATE TABLE IF NOT EXISTS revoked (
    task text NOT NULL,
    node text NOT NULL,
    at double precision NOT NULL
);
CREATE INDEX IF NOT EXISTS revoked_task ON revoked (task);
CREATE TABLE IF NOT EXISTS held_up (
    task text NOT NULL,
    attempt integer NOT NULL,
    node text NOT NULL,
    at double precision NOT NULL
);
CREATE INDEX IF NOT EXISTS held_up_task ON held_up (task);
