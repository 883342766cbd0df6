// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What is loaded first: programs the daemon calls, to sum the counters and to read the clock. With them come the maps that
 * the other objects share, so that those can be verified side by side.
 */
#include "event.h"
#include "fold.h"
#include "service.h"

SEC("syscall")
int lox_fold_counters(void *ctx)
{
	return lox_fold();
}

/* Both clocks of the kernel at one moment: jiffies, which flows are stamped with, and nanoseconds. */
struct lox_clock {
	__u64 jiffies;
	__u64 nanoseconds;
};

SEC("syscall")
int lox_read_clock(struct lox_clock *clock)
{
	clock->jiffies = bpf_jiffies64();
	clock->nanoseconds = bpf_ktime_get_ns();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
