// How blocks of threads run on a processor, and how a kernel is found and started.

#include "launch.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include <vector>

// The system's way to change stacks asks the kernel each time: where we know how, we do it ourselves.
#if defined(__x86_64__) && defined(__linux__) && !defined(SYSTEMS_SWITCH)
#define OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

// As large as a page is anywhere.
const std::size_t PAGE = 64 << 10;
const std::size_t STACK = 256 << 10;
const unsigned MOST_THREADS = 1024;

#ifdef OWN_SWITCH
// Keeps what a function has to keep on the stack, and goes on with another stack.
extern "C" void okapi_emulated_switch(void **kept, void *next);
asm(R"(
    .text
    .globl okapi_emulated_switch
    .type okapi_emulated_switch, @function
okapi_emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size okapi_emulated_switch, .-okapi_emulated_switch
)");

using Context = void *;
void change(Context &kept, Context &next) { okapi_emulated_switch(&kept, next); }

void prepare(Context &context, char *stack, void (*entry)()) {
    // Six registers, and where to return to. A function begins 8 bytes beside a multiple of 16.
    auto top = reinterpret_cast<void **>(stack + STACK - 64);
    for (int place = 0; place < 6; place++) {
        top[place] = nullptr;
    }
    top[6] = reinterpret_cast<void *>(entry);
    top[7] = nullptr;
    context = top;
}
#else
using Context = ucontext_t;
void change(Context &kept, Context &next) { swapcontext(&kept, &next); }

void prepare(Context &context, char *stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

void work();

// A stack that threads of blocks run on, one until it finishes, then the next.
struct Fiber {
    char *memory;
    Context context;

    Fiber() {
        void *at = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        // Below the stack nothing may be written.
        if (at == MAP_FAILED || mprotect(at, PAGE, PROT_NONE) != 0) {
            std::perror("no memory for a stack");
            std::abort();
        }
        memory = static_cast<char *>(at);
        reset();
    }
    ~Fiber() { munmap(memory, STACK + PAGE); }
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;

    void reset() { prepare(context, memory + PAGE, work); }
};

enum class State : unsigned char { Ready, AtBarrier, InWarp, Finished };

// All that a thread of the system needs to run blocks.
struct Machine {
    Context scheduler;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber *> idle;
    Fiber *running = nullptr;
    unsigned current = 0;

    void (*call)(const std::uint64_t *) = nullptr;
    const std::uint64_t *slots = nullptr;
    unsigned threads = 0;
    unsigned started = 0;
    unsigned finished = 0;
    bool backwards = false;
    std::uint64_t launches = 0;

    State states[MOST_THREADS];
    Fiber *owners[MOST_THREADS];
    // What lanes give each other, for two shuffles in turn: a lane may begin the next one while others
    // still read.
    char given[2][MOST_THREADS][16];
    unsigned char turn[MOST_THREADS];

    char failure[256];
    bool has_failed = false;

    // The order in which threads run is turned around now and then, so that a missing barrier shows.
    unsigned in_order(unsigned place) const { return backwards ? threads - 1 - place : place; }

    void fail(const char *what) {
        std::snprintf(failure, sizeof failure, "%s (block %u %u, thread %u)", what, blockIdx.x, blockIdx.y,
                      threadIdx.x);
        has_failed = true;
    }

    void leave(State state) {
        unsigned thread = current;
        states[thread] = state;
        owners[thread] = running;
        change(running->context, scheduler);
        current = thread;
        threadIdx = {thread, 0, 0};
    }

    void resume(Fiber *fiber) {
        running = fiber;
        change(scheduler, fiber->context);
    }

    Fiber *take() {
        if (idle.empty()) {
            fibers.push_back(std::make_unique<Fiber>());
            return fibers.back().get();
        }
        Fiber *fiber = idle.back();
        idle.pop_back();
        return fiber;
    }

    // Lets go on who waits for nobody any more. Whether there was anybody.
    bool release() {
        bool any = false;
        unsigned at_barrier = 0;
        for (unsigned first = 0; first < threads; first += 32) {
            unsigned in_warp = 0;
            for (unsigned thread = first; thread < first + 32; thread++) {
                in_warp += states[thread] == State::InWarp;
                at_barrier += states[thread] == State::AtBarrier;
            }
            if (in_warp == 32) {
                any = true;
                for (unsigned thread = first; thread < first + 32; thread++) {
                    states[thread] = State::Ready;
                }
            }
        }
        if (!any && at_barrier == threads) {
            any = true;
            for (unsigned thread = 0; thread < threads; thread++) {
                states[thread] = State::Ready;
            }
        }
        return any;
    }

    void block() {
        started = finished = 0;
        std::memset(turn, 0, threads);
        while (started < threads && !has_failed) {
            resume(take());
        }
        while (finished < threads && !has_failed) {
            if (!release()) {
                fail("threads of a block wait for others that never come");
                break;
            }
            backwards = !backwards;
            for (unsigned place = 0; place < threads && !has_failed; place++) {
                unsigned thread = in_order(place);
                if (states[thread] == State::Ready) {
                    current = thread;
                    resume(owners[thread]);
                }
            }
        }
        if (has_failed) {
            idle.clear();
            for (auto &fiber : fibers) {
                fiber->reset();
                idle.push_back(fiber.get());
            }
        }
    }
};

thread_local Machine machine;

// What a fiber does: thread after thread of a block, as long as there are some that nobody began.
void work() {
    for (;;) {
        Machine &it = machine;
        Fiber *self = it.running;
        while (it.started < it.threads) {
            unsigned thread = it.in_order(it.started++);
            it.current = thread;
            threadIdx = {thread, 0, 0};
            it.call(it.slots);
            it.states[it.current] = State::Finished;
            it.finished++;
        }
        it.idle.push_back(self);
        change(self->context, it.scheduler);
    }
}

void only_whole_warps(unsigned lanes) {
    if (lanes != 0xffffffffu) {
        machine.fail("a warp is asked for some of its lanes only");
        machine.leave(State::Finished);
    }
}

} // namespace

void __syncthreads() { machine.leave(State::AtBarrier); }

void __syncwarp(unsigned lanes) {
    only_whole_warps(lanes);
    machine.leave(State::InWarp);
}

void emulated_shuffle(unsigned lanes, void *value, std::size_t bytes, unsigned source) {
    only_whole_warps(lanes);
    Machine &it = machine;
    unsigned thread = it.current;
    auto &given = it.given[it.turn[thread]];
    it.turn[thread] ^= 1;
    std::memcpy(given[thread], value, bytes);
    it.leave(State::InWarp);
    std::memcpy(value, given[thread / 32 * 32 + source], bytes);
}

// So many bytes, behind which is a page that nobody may read or write, or nothing.
extern "C" void *okapi_emulated_allocate(std::size_t bytes) {
    std::size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    void *at = mmap(nullptr, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return nullptr;
    }
    char *end = static_cast<char *>(at) + whole;
    if (mprotect(end, PAGE, PROT_NONE) != 0) {
        munmap(at, whole + PAGE);
        return nullptr;
    }
    return end - bytes;
}

extern "C" void okapi_emulated_free(void *at, std::size_t bytes) {
    std::size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    munmap(static_cast<char *>(at) + bytes - whole, whole + PAGE);
}

extern "C" const Kernel *okapi_emulated_find(const char *name, std::size_t length) {
    for (const Kernel *kernel = okapi_emulated_kernels; kernel->name != nullptr; kernel++) {
        if (std::strlen(kernel->name) == length && std::memcmp(kernel->name, name, length) == 0) {
            return kernel;
        }
    }
    return nullptr;
}

extern "C" const char *okapi_emulated_signature(const Kernel *kernel) { return kernel->signature; }

// Nothing, or what went wrong.
extern "C" const char *okapi_emulated_launch(const Kernel *kernel, unsigned blocks, unsigned others,
                                             unsigned threads, const std::uint64_t *slots) {
    if (threads == 0 || threads > MOST_THREADS || threads % 32 != 0) {
        return "a block has no whole warps, or too many threads";
    }
    if (others > 65535 || blocks > 0x7fffffffu) {
        return "a grid has too many blocks";
    }
    Machine &it = machine;
    it.call = kernel->call;
    it.slots = slots;
    it.threads = threads;
    it.has_failed = false;
    blockDim = {threads, 1, 1};
    gridDim = {blocks, others, 1};
    it.launches++;
    std::uint64_t all = static_cast<std::uint64_t>(blocks) * others;
    for (std::uint64_t place = 0; place < all; place++) {
        // Blocks too run in an order that nobody may rely on.
        std::uint64_t block = it.launches % 2 == 0 ? place : all - 1 - place;
        blockIdx = {static_cast<unsigned>(block % blocks), static_cast<unsigned>(block / blocks), 0};
        it.backwards = (block + it.launches / 2) % 2 == 1;
        it.block();
        if (it.has_failed) {
            return it.failure;
        }
    }
    return nullptr;
}
