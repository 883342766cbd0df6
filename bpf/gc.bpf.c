// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The ager, which the daemon starts once. */
#include "ager.h"

/* Of a packet type, since those for system calls may not look into the sources of a rule; the packet is nothing. */
SEC("tc")
int lox_age_start(struct __sk_buff *ctx)
{
	return lox_start_ager();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
