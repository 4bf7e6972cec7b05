/bin/busybox ash -c 'seq 1000 | /bin/busybox awk "{s+=\$1} END{print s}"' | grep -qx 500500
/bin/busybox tar cf t.tar /etc/passwd 2>/dev/null && /bin/busybox tar tf t.tar | grep -x etc/passwd >/dev/null
seq 10000 | /bin/busybox gzip | /bin/busybox gunzip | /bin/busybox md5sum | grep -q 72d4ff27a28afbc066d5804999d5a504
mkdir www && echo busy >www/index.html
/bin/busybox httpd -p 8099 -h www
[ "$(/bin/busybox wget -q -O - http://127.0.0.1:8099/)" = busy ]
/bin/busybox ps >/dev/null && /bin/busybox free >/dev/null
/bin/busybox kill "$(/bin/busybox pidof httpd)" || /bin/busybox killall busybox
/bin/busybox | sed -n 1p
