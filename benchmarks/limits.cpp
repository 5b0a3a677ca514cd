// What this machine can do at most: bytes read from memory, int8 and fp32 operations, in a second.
// usage: limits THREADS GIB      prints one JSON object; built with -march=native by cpu_peers_limits.py
//
// Knows no model. The best of several passes is told, for what other programs take away is not the machine's limit.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <atomic>
#include <sys/mman.h>
#include <thread>
#include <vector>
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

#if defined(__aarch64__)
#define LANES_IN "w"
#else
#define LANES_IN "v"
#endif

constexpr int PASSES = 4;
constexpr int CHAINS = 12;  // independent sums: enough to hide the latency of two units
constexpr long STEPS = 6'000'000;

#if defined(__AVX512F__)
constexpr int WIDTH = 64;
#elif defined(__AVX2__)
constexpr int WIDTH = 32;
#else
constexpr int WIDTH = 16;
#endif
typedef uint64_t Words __attribute__((vector_size(WIDTH)));
typedef float Floats __attribute__((vector_size(WIDTH)));

std::atomic<uint64_t> sink;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds that `work(thread)` takes when `threads` threads start it together.
template <class Work>
double timed(int threads, Work work) {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> team;
    for (int thread = 0; thread < threads; thread++)
        team.emplace_back([&, thread] {
            ready++;
            while (!go) std::this_thread::yield();
            work(thread);
        });
    while (ready < threads) std::this_thread::yield();
    double begun = now();
    go = true;
    for (auto& one : team) one.join();
    return now() - begun;
}

template <class Work>
double best(int threads, Work work) {
    double least = 1e30;
    for (int pass = 0; pass < PASSES; pass++) {
        double seconds = timed(threads, work);
        least = seconds < least ? seconds : least;
    }
    return least;
}

void read_all(const char* memory, size_t bytes) {
    Words a{}, b{}, c{}, d{};
    auto at = reinterpret_cast<const Words*>(memory);
    for (size_t i = 0; i < bytes / WIDTH; i += 4) {
        a ^= at[i];
        b ^= at[i + 1];
        c ^= at[i + 2];
        d ^= at[i + 3];
    }
    a ^= b ^ c ^ d;
    sink += a[0] ^ a[1];
}

double read_bandwidth(char* memory, size_t bytes, int threads) {
    size_t share = bytes / threads / 4096 * 4096;
    double seconds = best(threads, [&](int thread) { read_all(memory + share * thread, share); });
    return share * threads / seconds;
}

// Operations (a multiplication and an addition are two) of one step of all chains; `Unit` is what a step does.
template <class Unit>
double throughput(int threads) {
    double seconds = best(threads, [](int) {
        typename Unit::Lanes sums[CHAINS], x = Unit::start();
#pragma GCC unroll 12
        for (int chain = 0; chain < CHAINS; chain++) sums[chain] = typename Unit::Lanes{};
        for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
            for (int chain = 0; chain < CHAINS; chain++) {
                sums[chain] = Unit::step(sums[chain], x);
                asm volatile("" : "+" LANES_IN(sums[chain]));  // each step is done, in a register
            }
        }
        uint64_t bits = 0;
        // Unrolled too: an array whose address somebody takes is kept in memory, and that is what would be measured.
#pragma GCC unroll 12
        for (int chain = 0; chain < CHAINS; chain++) bits ^= ((Words)sums[chain])[0];
        sink += bits;
    });
    return double(threads) * STEPS * CHAINS * Unit::operations / seconds;
}

struct Fp32 {
    typedef Floats Lanes;
    static constexpr double operations = 2.0 * WIDTH / 4;
    static Lanes start() {
        Lanes x;
        for (int lane = 0; lane < WIDTH / 4; lane++) x[lane] = 0.5f;
        return x;
    }
    static Lanes step(Lanes sum, Lanes x) { return sum * x + x; }
};

#if defined(__AVX512VNNI__)
struct Int8 {
    typedef __m512i Lanes;
    static constexpr double operations = 2.0 * 64;
    static Lanes start() { return _mm512_set1_epi8(3); }
    static Lanes step(Lanes sum, Lanes x) { return _mm512_dpbusd_epi32(sum, x, x); }
};
#elif defined(__AVXVNNI__)
struct Int8 {
    typedef __m256i Lanes;
    static constexpr double operations = 2.0 * 32;
    static Lanes start() { return _mm256_set1_epi8(3); }
    static Lanes step(Lanes sum, Lanes x) { return _mm256_dpbusd_avx_epi32(sum, x, x); }
};
#elif defined(__AVX2__)
struct Int8 {
    typedef __m256i Lanes;
    static constexpr double operations = 2.0 * 32;
    static Lanes start() { return _mm256_set1_epi8(3); }
    static Lanes step(Lanes sum, Lanes x) {
        Lanes pairs = _mm256_maddubs_epi16(_mm256_xor_si256(x, sum), x);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
};
#elif defined(__ARM_FEATURE_DOTPROD)
struct Int8 {
    typedef int32x4_t Lanes;
    static constexpr double operations = 2.0 * 16;
    static Lanes start() { return vdupq_n_s32(0x03030303); }
    static Lanes step(Lanes sum, Lanes x) {
        return vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(x));
    }
};
#else
#define NO_INT8
#endif

}  // namespace

int main(int count, char** words) {
    if (count != 3) {
        fprintf(stderr, "usage: limits THREADS GIB\n");
        return 2;
    }
    int threads = atoi(words[1]);
    size_t bytes = size_t(atof(words[2]) * (1 << 30)) / 4096 * 4096;
    void* got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (threads < 1 || bytes < 4096u * threads || got == MAP_FAILED) {
        fprintf(stderr, "limits: no %zu bytes for %d threads\n", bytes, threads);
        return 1;
    }
#ifdef MADV_HUGEPAGE
    madvise(got, bytes, MADV_HUGEPAGE);
#endif
    auto memory = static_cast<char*>(got);
    memset(memory, 1, bytes);
    double read = 0;
    for (int some = 1; some <= threads; some++) {
        double found = read_bandwidth(memory, bytes, some);
        read = found > read ? found : read;
    }
    printf("{\"read_bytes_per_s\": %.4g, \"fp32_per_s\": %.4g, ", read, throughput<Fp32>(threads));
#ifdef NO_INT8
    printf("\"int8_per_s\": null}\n");
#else
    printf("\"int8_per_s\": %.4g}\n", throughput<Int8>(threads));
#endif
    return 0;
}
