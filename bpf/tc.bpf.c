// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* TC ingress: the whole pipeline, offloads and unresolved neighbours included. */
#include "steps_tc.h"
#include "pipeline.h"
#include "reject.h"
#include "icmp.h"
#include "fragment.h"

SEC("tc")
int lox_tc(struct __sk_buff *ctx)
{
	return lox_frame(ctx);
}

SEC("tc")
int lox_tc_slow4(struct __sk_buff *ctx)
{
	return lox_slow_frame(ctx, false);
}

SEC("tc")
int lox_tc_slow6(struct __sk_buff *ctx)
{
	return lox_slow_frame(ctx, true);
}

SEC("tc")
int lox_tc_reject4(struct __sk_buff *ctx)
{
	return lox_reject(ctx, false);
}

SEC("tc")
int lox_tc_reject6(struct __sk_buff *ctx)
{
	return lox_reject(ctx, true);
}

SEC("tc")
int lox_tc_icmp4(struct __sk_buff *ctx)
{
	return lox_icmp_error(ctx, false);
}

SEC("tc")
int lox_tc_icmp6(struct __sk_buff *ctx)
{
	return lox_icmp_error(ctx, true);
}

SEC("tc")
int lox_tc_fragment4(struct __sk_buff *ctx)
{
	return lox_fragment(ctx, false);
}

SEC("tc")
int lox_tc_fragment6(struct __sk_buff *ctx)
{
	return lox_fragment(ctx, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
