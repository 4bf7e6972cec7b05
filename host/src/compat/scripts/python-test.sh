# Python's own tests: every failure shows here, every skip is counted and named.
python3 -m test -v "$MODULE" >log 2>&1 || { grep -E '^(ERROR|FAIL):' log | sort -u; tail -n 5 log; exit 1; }
grep -E '\.\.\. skipped' log | grep -viE 'windows|win32|msvcrt|NTFS|macos' | sed 's/^\([^ ]*\).*skipped/\1: skipped/' | sort -u || true
grep -E '^Ran|^OK' log | tr '\n' ' '
