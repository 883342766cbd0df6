// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The ager, which the daemon starts once. */
#include "ager.h"

SEC("syscall")
int lox_age_start(void *ctx)
{
	return lox_start_ager();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
