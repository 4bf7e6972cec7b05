# Python's own tests. Skips that are not for other systems are named; docs/compat.md has their reasons.
python3 -m test -v "$MODULE" >log 2>&1 || { grep -E '^(ERROR|FAIL):' log | sort -u; tail -n 5 log; exit 1; }
grep -E '\.\.\. skipped' log | grep -viE 'windows|win32|msvcrt|NTFS|macos' | sed 's/^\([^ ]*\).*skipped/\1: skipped/' | sort -u || true
echo "$(grep -E '^Ran' log | tail -n 1), $(grep -cE '\.\.\. skipped' log || true) skipped"
