stress-ng "--$STRESSOR" 1 "--$STRESSOR-ops" "$OPS" --verify --timeout "${TIMEOUT:-120}" --temp-path . --metrics-brief >log 2>&1 || { cat log; exit 1; }
grep -q 'successful run completed' log || { cat log; exit 1; }
! grep -E 'fail:|error:' log
awk -v s="$STRESSOR" -v ops="$OPS" '$4 == s && $5 ~ /^[0-9]+$/ { print $5, "operations"; enough = $5 >= ops } END { exit !enough }' log
