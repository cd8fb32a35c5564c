#!/bin/bash
# Behaves as the real runner's run.sh and run-helper.sh do: it hides the listener's exit code (facts in the README).

if [ "$(id -u)" -eq 0 ] && [ -z "$RUNNER_ALLOW_RUNASROOT" ]; then
    echo "Must not run interactively with sudo"
    exit 1
fi

cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

run_listener() {
    if [ -n "$RUNNER_MANUALLY_TRAP_SIG" ]; then
        # The listener is told to stop when this shell is, and waited for.
        trap 'kill -INT $PID; wait $PID; exit 143' TERM INT
        ./bin/Runner.Listener run "$@" &
        PID=$!
        wait $PID
    else
        ./bin/Runner.Listener run "$@"
    fi
}

while :; do
    run_listener "$@"
    code=$?
    case $code in
        0)
            echo "Runner listener exited with error code 0"
            echo "Runner listener exit with 0 return code, stop the service, no retry needed."
            exit 0
            ;;
        1)
            echo "Runner listener exited with error code 1"
            echo "Runner listener exit with terminated error, stop the service, no retry needed."
            exit 0
            ;;
        2)
            echo "Runner listener exit with retryable error, re-launch runner in 5 seconds."
            sleep 5
            ;;
        3 | 4)
            echo "Runner listener exit because of updating, re-launch runner after successful update"
            sleep 5
            ;;
        5)
            echo "Runner listener exit with Session Conflict error, stop the service, no retry needed."
            exit 0
            ;;
        7)
            echo "Runner listener exit with runner version deprecated error, stop the service, no retry needed."
            case "$ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE" in 1 | [Tt]rue) exit 7 ;; *) exit 0 ;; esac
            ;;
        *)
            echo "Exiting with unknown error code: $code"
            exit 0
            ;;
    esac
done
