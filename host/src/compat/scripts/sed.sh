[ "$(echo hello world | sed -E 's/(hello) (world)/\2 \1/')" = "world hello" ]
seq 5 >f && sed -i '2d;s/5/five/' f && [ "$(tr '\n' ' ' <f)" = "1 3 4 five " ]
sed -n '$=' f | grep -qx 4
sed --version | sed -n 1p
