#!/usr/bin/env bash
# All tests, in two halves at once, because most of them wait more than they compute: those with a running
# Airflow, one after the other, and the others, divided among JOBS processes. Arguments go to both.
set -uo pipefail
set -m # Else what runs in the background is deaf to Ctrl-C.

PYTHON=${PYTHON:-python3}
EMPTY=5 # How pytest exits when it found no test: the arguments may name tests of one half only.

output=$(mktemp)
trap 'rm -f "$output"' EXIT
trap 'kill -INT $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM

"$PYTHON" -m pytest -m "(airflow or browser) and not bench" "$@" >"$output" 2>&1 &
airflow=$!
"$PYTHON" -m pytest -n "${JOBS:-2}" -m "not bench and not airflow and not browser" "$@" &
others=$!
wait $others
others=$?
echo "The output of the tests with a running Airflow follows when they have ended"
wait $airflow
airflow=$?
cat "$output"

if [ $others -eq $EMPTY ]; then exit $airflow; fi
if [ $airflow -eq $EMPTY ]; then exit $others; fi
exit $((others || airflow))
