cat >Makefile <<'M'
OBJECTS := a.o b.o
prog: $(OBJECTS)
	gcc -o $@ $^
%.o: %.c
	gcc -c -o $@ $<
.PHONY: clean
clean:
	rm -f $(OBJECTS) prog
M
echo 'int b(void); int main(void) { return b() - 4; }' >a.c && echo 'int b(void) { return 4; }' >b.c
make -j3 >log && ./prog && make >again && grep -q 'up to date' again
sleep 1; touch b.c && make >again && [ "$(grep -c 'gcc -c' again)" = 1 ]
make clean >/dev/null && ! test -e prog
status=0; make nothing 2>/dev/null || status=$?; [ "$status" = 2 ]
make --version | sed -n 1p
