cat >a.c <<'C'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *square(void *x) { return (void *)((long)x * (long)x); }
int main(void) {
    long sum = 0;
    for (long i = 0; i < 10; i++) {
        pthread_t t; void *r;
        if (pthread_create(&t, 0, square, (void *)i) || pthread_join(t, &r)) return 1;
        sum += (long)r;
    }
    printf("%ld %.3f\n", sum, sqrt(2));
    return sum != 285;
}
C
gcc -O2 -Wall -o dynamic a.c -lm -pthread && [ "$(./dynamic)" = "285 1.414" ]
gcc -O0 -g -static -o static a.c -lm -pthread && [ "$(./static)" = "285 1.414" ]
echo 'int two(void) { return 2; }' >b.c && gcc -shared -fPIC -o libtwo.so b.c
echo 'int two(void); int main(void) { return two() != 2; }' >c.c && gcc -o linked c.c -L. -ltwo && LD_LIBRARY_PATH=. ./linked
gcc --version | sed -n 1p
