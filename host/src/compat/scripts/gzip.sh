seq 50000 >plain && cp plain f && gzip f && ! test -e f
[ "$(stat -c %s f.*)" -lt "$(stat -c %s plain)" ]
gzip -t f.* && gunzip f.* && cmp f plain
status=0; echo damaged | gzip -dc >/dev/null 2>&1 || status=$?; [ "$status" != 0 ]
head -c 3000000 /dev/urandom >r && gzip -c <r | gzip -dc | cmp - r
gzip --version 2>&1 </dev/null | sed -n 1p
