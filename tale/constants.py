"""The twelve figures that every part of tale agrees on; all other defaults live in tale.settings."""

from typing import Final

DEFAULT_HTTP_TIMEOUT: Final[int] = 30  # s: how long an HTTP exchange may stay silent (idle, not total)
TASK_EXECUTION_TIMEOUT: Final[int] = 300  # s: how long one attempt at a task may run
GATEWAY_PORT: Final[int] = 8080  # TCP port: the gateway, where tasks are submitted
EXECUTION_PORT: Final[int] = 8081  # TCP port: the execution server, where tasks are run
POLLING_INTERVAL: Final[int] = 2  # s: how often a screen refreshes what it shows
SERVER_START_DELAY: Final[int] = 1  # s: longest pause between two looks at a server that is starting
MONITOR_INTERVAL: Final[int] = 10  # s: how often the watcher checks that a process is healthy
ERROR_RETRY_DELAY: Final[int] = 5  # s: base wait before a failed attempt is made again (jitter is added)
CLI_INIT_DELAY: Final[int] = 2  # s: how long a command waits for a server's first answer before it says so
TASK_TEXT_TRUNCATE: Final[int] = 60  # characters of a task's text shown in lists
RESTART_DELAY: Final[int] = 2  # s: wait before a process that died is started again
MAX_TASK_RETRIES: Final[int] = 3  # attempts: how often a task is tried before it ends as failed
