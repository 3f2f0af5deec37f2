// Kernels by their names, to be started with arguments of 8 bytes each.

#pragma once

#include "cuda_on_host.h"

#include <type_traits>
#include <utility>

struct Kernel {
    const char *name;
    // A letter for each argument: a(ddress), u (32 bits), U (64 bits), f(loat).
    const char *signature;
    void (*call)(const std::uint64_t *);
};

// All of them; behind the last is one without a name.
extern const Kernel okapi_emulated_kernels[];

template <typename P> constexpr char letter_of() {
    static_assert(std::is_pointer_v<P> || std::is_same_v<P, unsigned> || std::is_same_v<P, unsigned long long> ||
                      std::is_same_v<P, float>,
                  "a kernel takes addresses, whole numbers without a sign, and single precision");
    return std::is_pointer_v<P> ? 'a' : std::is_same_v<P, float> ? 'f' : sizeof(P) == 4 ? 'u' : 'U';
}

template <typename P> P argument_of(std::uint64_t slot) {
    if constexpr (std::is_pointer_v<P>) {
        return reinterpret_cast<P>(slot);
    } else if constexpr (std::is_same_v<P, float>) {
        return __uint_as_float(static_cast<unsigned>(slot));
    } else {
        return static_cast<P>(slot);
    }
}

template <auto kernel> struct Caller;

template <typename... P, void (*kernel)(P...)> struct Caller<kernel> {
    static constexpr char signature[] = {letter_of<P>()..., '\0'};

    template <std::size_t... I> static void spread(const std::uint64_t *slots, std::index_sequence<I...>) {
        kernel(argument_of<P>(slots[I])...);
    }

    static void call(const std::uint64_t *slots) { spread(slots, std::index_sequence_for<P...>{}); }
};

#define EMULATED_KERNEL(name) {#name, Caller<&name>::signature, Caller<&name>::call},
