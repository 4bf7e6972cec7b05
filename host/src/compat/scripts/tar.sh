mkdir -p t/sub && seq 1000 >t/a && ln -s a t/l && ln t/a t/h && chmod 600 t/a
for z in "" z j J; do
    tar "c${z}f" "x$z.tar" t && rm -rf out && mkdir out && tar "x${z}f" "x$z.tar" -C out
    cmp t/a out/t/a && [ "$(readlink out/t/l)" = a ] && [ "$(stat -c %h%a out/t/a)" = 2600 ]
done
tar cf - /etc 2>/dev/null | tar tf - | grep -x etc/passwd >/dev/null
tar --version | sed -n 1p
