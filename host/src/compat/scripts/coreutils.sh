mkdir -p d/e && cd d
seq 100 >a && cp -a a b && mv b e/c && ln a hard && ln -s a soft && cmp a e/c
[ "$(stat -c %h a)" = 2 ] && [ "$(readlink soft)" = a ]
[ "$(sort -rn a | head -n 1)" = 100 ] && [ "$(wc -l <a)" = 100 ] && [ "$(tail -n 1 a)" = 100 ]
[ "$(cut -c1 a | sort | uniq -c | wc -l)" = 9 ]
[ "$(sha256sum <a | cut -d' ' -f1)" = 93d4e5c77838e0aa5cb6647c385c810a7c2782bf769029e6c420052048ab22bb ]
split -l 10 a part. && [ "$(cat part.* | cmp - a && echo same)" = same ]
chmod 640 a && [ "$(stat -c %a a)" = 640 ]
chown 1000:1000 a && [ "$(stat -c %u:%g a)" = 1000:1000 ]
touch -d '2020-02-02 02:02:02 UTC' a && [ "$(date -u -r a +%F)" = 2020-02-02 ]
dd if=/dev/zero of=z bs=64k count=16 status=none && truncate -s 100 z && [ "$(stat -c %s z)" = 100 ]
[ "$(printf 'b\na\n' | tsort | wc -l)" -ge 1 ]
mkfifo p && (echo through >p &) && [ "$(cat p)" = through ]
status=0; timeout 1 sleep 100 || status=$?; [ "$status" = 124 ]
df . >/dev/null && du -s . >/dev/null && id >/dev/null && nproc >/dev/null && ls -laR . >/dev/null
[ "$(uname -v | cut -c1-6)" != Shimos ] || [ "$(nproc)" = 1 ]
env -i A=b env | grep -qx A=b
[ "$(factor 1000000007)" = "1000000007: 1000000007" ]
rm -rf e part.* && ! test -e e
ls --version | sed -n 1p
