// Runs calls of the kernel library that were prepared elsewhere, on a processor of another kind.
//
//   driver LIBRARY CALLS RESULTS [VARIANT]
//
// CALLS is what `arena.py` writes: numbers of 64 bits (the arena's address there, its size, how many pointers it holds,
// how many calls), the offsets of the pointers in it, function and offset of the argument of each call, the arena. The
// pointers are moved to where the arena lies here. RESULTS gets what each call returned, then the arena as the calls
// left it. Prints the name of the variant.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"laguna_forward", "laguna_product", "laguna_exact_product", "laguna_rows",
                                    "laguna_attention", "laguna_routing"};
enum { STRUCTS = sizeof names / sizeof *names };

struct FunctionCall {
    int64_t which, n;
    const float *x;
    float *y;
};

static void fail(const char *what) {
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

static void *needed(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) fail(name);
    return found;
}

static int64_t call(void *library, int64_t function, void *argument) {
    if (function < STRUCTS) return ((int (*)(void *))needed(library, names[function]))(argument);
    const struct FunctionCall *given = argument;
    int (*applied)(int, const float *, float *, int64_t) = needed(library, "laguna_function");
    return applied((int)given->which, given->x, given->y, given->n);
}

static int64_t *numbers(FILE *from, int64_t count) {
    int64_t *read = malloc(count * sizeof *read + 8);
    if (!read || fread(read, sizeof *read, count, from) != (size_t)count) fail("CALLS ends early");
    return read;
}

int main(int argc, char **argv) {
    if (argc < 4) fail("three arguments are needed");
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) fail(dlerror());
    if (argc > 4 && ((int (*)(const char *))needed(library, "laguna_choose_variant"))(argv[4])) fail("no such variant");
    FILE *from = fopen(argv[2], "rb"), *to = fopen(argv[3], "wb");
    if (!from || !to) fail("a file cannot be opened");
    const int64_t *head = numbers(from, 4), size = head[1];
    const int64_t *pointers = numbers(from, head[2]), *calls = numbers(from, 2 * head[3]);
    char *arena = aligned_alloc(4096, size);
    if (!arena || fread(arena, 1, size, from) != (size_t)size) fail("the arena cannot be read");
    for (int64_t i = 0; i < head[2]; i++) {
        uint64_t pointer;
        memcpy(&pointer, arena + pointers[i], 8);
        pointer += (uint64_t)arena - (uint64_t)head[0];
        memcpy(arena + pointers[i], &pointer, 8);
    }
    for (int64_t i = 0; i < head[3]; i++) {
        const int64_t result = call(library, calls[2 * i], arena + calls[2 * i + 1]);
        fwrite(&result, sizeof result, 1, to);
    }
    fwrite(arena, 1, size, to);
    if (fclose(to)) fail("RESULTS cannot be written");
    puts(((const char *(*)(void))needed(library, "laguna_variant"))());
    return 0;
}
