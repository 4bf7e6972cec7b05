seq 1000 >n
[ "$(grep -c 7 n)" = 271 ] && [ "$(grep -E '^(1|2)0$' n | tr '\n' ' ')" = "10 20 " ]
[ "$(grep -P '^9(?=99)' n)" = 999 ]
mkdir d && cp n d/ && grep -rl 1000 d | grep -qx d/n
status=0; grep -q nothing n || status=$?; [ "$status" = 1 ]
grep --version | sed -n 1p
