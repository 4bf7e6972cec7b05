seq 50000 >plain && cp plain f && xz f && ! test -e f
[ "$(stat -c %s f.*)" -lt "$(stat -c %s plain)" ]
xz -t f.* && unxz f.* && cmp f plain
status=0; echo damaged | xz -dc >/dev/null 2>&1 || status=$?; [ "$status" != 0 ]
head -c 3000000 /dev/urandom >r && xz -c <r | xz -dc | cmp - r
xz --version 2>&1 </dev/null | sed -n 1p
