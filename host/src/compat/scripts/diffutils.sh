seq 10 >a && sed s/5/five/ a >b
status=0; diff -u a b >p || status=$?; [ "$status" = 1 ]
grep -qx -- '+five' p && cmp -s a a
status=0; cmp -s a b || status=$?; [ "$status" = 1 ]
mkdir x y && cp a x/ && cp b y/a
diff -rq x y >rq || true; grep -q differ rq
sdiff a b >sd || true; grep -q five sd
diff3 a b a >d3; grep -q '^====2' d3
diff --version | sed -n 1p
