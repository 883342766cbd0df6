// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* TC egress: replies of endpoints on this host. */
#include "steps_egress.h"
#include "egress.h"
#include "icmp.h"
#include "fragment.h"

SEC("tc")
int lox_egress(struct __sk_buff *ctx)
{
	return lox_leaving(ctx);
}

SEC("tc")
int lox_egress_slow4(struct __sk_buff *ctx)
{
	return lox_slow_frame(ctx, false);
}

SEC("tc")
int lox_egress_slow6(struct __sk_buff *ctx)
{
	return lox_slow_frame(ctx, true);
}

SEC("tc")
int lox_egress_icmp4(struct __sk_buff *ctx)
{
	return lox_icmp_error(ctx, false);
}

SEC("tc")
int lox_egress_icmp6(struct __sk_buff *ctx)
{
	return lox_icmp_error(ctx, true);
}

SEC("tc")
int lox_egress_fragment4(struct __sk_buff *ctx)
{
	return lox_fragment(ctx, false);
}

SEC("tc")
int lox_egress_fragment6(struct __sk_buff *ctx)
{
	return lox_fragment(ctx, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
