[ "$(seq 100 | gawk '{s+=$1} END{print s}')" = 5050 ]
[ "$(gawk 'BEGIN{"echo sub" | getline x; print toupper(x)}')" = SUB ]
gawk 'BEGIN{printf "%s", strftime("%Y", 0, 1)}' | grep -qx 1970
gawk --version | sed -n 1p
