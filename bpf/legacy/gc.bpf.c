// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The ager for kernels without timers (Linux 5.15): the daemon calls it, one thread at a time. */
#include "../ager.h"

/* What the timer does. The packet is nothing. */
SEC("tc")
int lox_age_tick(struct __sk_buff *ctx)
{
	struct lox_runtime *rt = lox_runtime();
	__u32 zero = 0;
	struct lox_ager *a = bpf_map_lookup_elem(&ager, &zero);

	if (a && rt)
		lox_tick(a, rt);
	return 0;
}

/* A flow in the overflow map, whose key is the packet. It is asked for its endpoint each time. */
LOX_INLINE int lox_age_spilled(const bool v6, struct lox_flow *f)
{
	__u32 zero = 0;
	struct lox_ager *a = bpf_map_lookup_elem(&ager, &zero);
	struct lox_stripe s = { .now = lox_now(), .purge = 1 };

	if (!f || !a)
		return 0;
	s.patience = a->patience;
	lox_visit_overflow(NULL, NULL, f, &s, v6);
	return 0;
}

SEC("tc")
int lox_age_spilled4(struct __sk_buff *ctx)
{
	struct lox_key4 *packet = (void *)(long)ctx->data, key;

	if ((void *)(packet + 1) > (void *)(long)ctx->data_end)
		return 0;
	key = *packet;
	return lox_age_spilled(false, bpf_map_lookup_elem(&overflow4, &key));
}

SEC("tc")
int lox_age_spilled6(struct __sk_buff *ctx)
{
	struct lox_key6 *packet = (void *)(long)ctx->data, key;

	if ((void *)(packet + 1) > (void *)(long)ctx->data_end)
		return 0;
	key = *packet;
	return lox_age_spilled(true, bpf_map_lookup_elem(&overflow6, &key));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
