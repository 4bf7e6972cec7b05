# Python's own tests. What fails must be KNOWN, with its reason in docs/compat.md; skips that are not for other systems are named.
status=0; python3 -m test -v "$MODULE" >log 2>&1 || status=$?
failed=$(grep -E '^(ERROR|FAIL):' log | sort -u | grep -vE "${KNOWN:-^$}" || true)
known=$(grep -E '^(ERROR|FAIL):' log | sort -u | grep -cE "${KNOWN:-^$}" || true)
[ -z "$failed" ] || { echo "$failed"; exit 1; }
[ "$status" = 0 ] || [ "$known" != 0 ] || { tail -n 5 log; exit 1; }
grep -E '\.\.\. skipped' log | grep -viE 'windows|win32|msvcrt|NTFS|macos' | sed 's/^\([^ ]*\).*skipped/\1: skipped/' | sort -u || true
echo "$(grep -E '^Ran' log | tail -n 1), $known known failures, $(grep -cE '\.\.\. skipped' log || true) skipped"
