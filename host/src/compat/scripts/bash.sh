# Arrays, arithmetic, here documents, process substitution, traps, pipelines, job control in a script.
declare -A colour=([sky]=blue [grass]=green)
[ "${colour[sky]}" = blue ]
[ "$(for i in {1..10}; do echo $((i * i)); done | tail -n 1)" = 100 ]
[ "$(diff <(seq 5) <(seq 6) | tail -n 1)" = "> 6" ]
trap 'caught=yes' USR1
kill -USR1 $$
[ "$caught" = yes ]
set +e
(exit 7)
[ $? = 7 ]
false | true
statuses=("${PIPESTATUS[@]}")
set -e
[ "${statuses[0]}" = 1 ]
sleep 100 &
child=$!
kill "$child"
status=0
wait "$child" || status=$?
[ "$status" = 143 ]
coproc tr a-z A-Z
echo shimos >&"${COPROC[1]}"
eval "exec ${COPROC[1]}>&-"
[ "$(cat <&"${COPROC[0]}")" = SHIMOS ]
read -r -t 5 word <<<"here string"
[ "$word" = "here string" ]
bash --version | sed -n 1p
