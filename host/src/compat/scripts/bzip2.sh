seq 50000 >plain && cp plain f && bzip2 f && ! test -e f
[ "$(stat -c %s f.*)" -lt "$(stat -c %s plain)" ]
bzip2 -t f.* && bunzip2 f.* && cmp f plain
status=0; echo damaged | bzip2 -dc >/dev/null 2>&1 || status=$?; [ "$status" != 0 ]
head -c 3000000 /dev/urandom >r && bzip2 -c <r | bzip2 -dc | cmp - r
bzip2 --version 2>&1 </dev/null | sed -n 1p
