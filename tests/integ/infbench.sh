#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# infbench.sh - infbench counts what it sends, keeps its arrival times, names what goes wrong and leaves nothing behind.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
IB=$BUILD/infbench

says "no model, no ping" 2 'which model' "$IB"
says "a ping of depth 4" 2 'one request at a time' "$IB" --ping -d 4
says "a depth that no lane has" 2 'must be 1 to 256' "$IB" -d 257 identity
says "a shape that is none" 2 '--shape 3xx4' "$IB" -s 3xx4 identity
says "CPUs that are none" 2 '--cpus 0;1' "$IB" --cpus '0;1' identity
says "Poisson arrivals without a rate" 2 'needs --rate' "$IB" --poisson identity
says "no broker" 1 'socket' "$IB" --socket "$RUN/nowhere" identity
echo "0 0.1 0.05" >"$RUN/trace"
says "a trace that goes back in time" 1 'arrival 3 is not after' "$IB" --trace "$RUN/trace" identity
echo "0 x" >"$RUN/trace"
says "a trace with words" 1 'arrival 2 is no number' "$IB" --trace "$RUN/trace" identity
says "no trace" 1 'No such file' "$IB" --trace "$RUN/none" identity

export INF_BUILTIN_COST=2000,0
broker_start --builtin || { not_ok "start"; finish; }
says "an unknown model" 1 'nosuch' "$IB" nosuch
says "too much memory" 1 'quota|depth|memory' "$IB" -r 4096 -d 256 identity_f32
json "ping" 0 'd["requests"] == 100 and d["errors"] == 0 and d["statuses"] == {"OK": 100}' "$IB" -j -w 0 -n 100 --ping
json "closed loop: as many as asked for" 0 'd["requests"] == 1000 and 0 < d["latency_us"]["p50"] <= d["latency_us"]["p99"] <= d["latency_us"]["max"]' \
	"$IB" -j -w 0 -n 1000 -d 16 identity
json "three processes of two threads" 0 'd["requests"] == 600 and sum(n for _, n in d["histogram_us"]) == 600' \
	"$IB" -j -w 0 -n 600 -P 3 -T 2 -d 4 identity
json "rows and --fill" 0 'd["requests"] == 50 and d["rows"] == 7' "$IB" -j -w 0 -n 50 -r 7 --fill identity_f32
json "a shape" 0 'd["requests"] == 5' "$IB" -j -w 0 -n 5 -s 300 varying
says "a shape that does not fit" 1 '--shape does not fit' "$IB" -w 0 -n 5 -s 3000 varying
json "open loop, even gaps" 0 '90 <= d["requests"] <= 101' "$IB" -j -w 0 -t 0.5 --rate 200 -d 8 identity
json "open loop, Poisson: the same seed, the same arrivals" 0 '60 <= d["requests"] <= 140' \
	"$IB" -j -w 0 -t 0.5 --rate 200 --poisson -d 8 --seed 7 identity
printf '0.0\n0.01\n0.01\n0.2\n' >"$RUN/trace"
json "a trace" 0 'd["requests"] == 4' "$IB" -j -w 0 -t 2 --trace "$RUN/trace" -d 4 identity
# One at a time, 2 ms each, due every 1 ms: the 50th has waited about 50 ms, and that is what its latency says.
json "a latency counts from when the request was due" 0 'd["latency_us"]["max"] > 20000' \
	"$IB" -j -w 0 -t 0.05 --rate 1000 -d 1 sleep
says "requests that miss their deadline" 1 'DEADLINE' "$IB" -w 0 -n 80 -d 80 --deadline 0.5 sleep
says "a histogram" 0 'us +[0-9.]+ %' "$IB" -w 0 -n 100 -H identity
printf 'go 0.05\ngo 0.05\n' | timeout 20 "$IB" --commands identity >"$RUN/answers"
check "two rounds on command" test "$(grep -c '"requests"' "$RUN/answers")" = 2
check "it says when it is ready" grep -q '^ready$' "$RUN/answers"
says "an unknown command" 1 'commands are: go' bash -c "echo stop | '$IB' --commands identity"

# A model that keeps all instances and the places behind them full leaves others their turn.
"$IB" -q -w 0 -t 6 -d 250 sleep >"$RUN/flood" 2>&1 &
flood=$!
read -r -t 0.5 <> <(:) || true
json "a sparse model beside a flooded one" 0 'd["requests"] == 40 and d["latency_us"]["max"] < 1e6' "$IB" -j -w 0 -n 40 identity
check "the flood is answered as well" wait $flood

# Sleeping at once instead of spinning is told to everybody.
json "status tells the spin budget" 0 'd["wake_ns"] >= 2000 and d["spin_ns"] in (0, d["wake_ns"])' "$BUILD/shmctl" status -j
check "the broker ends cleanly" broker_stop
broker_start --builtin --no-spin || { not_ok "start with --no-spin"; finish; }
json "--no-spin" 0 'd["spin_ns"] == 0' "$BUILD/shmctl" status -j
json "--no-spin: requests are answered" 0 'd["requests"] == 2000' "$IB" -j -w 0 -n 2000 -d 8 identity
check "it ends cleanly too" broker_stop
finish
