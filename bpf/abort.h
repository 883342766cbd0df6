/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Connections that are given up although both ends believe in them: they timed out, or lost their endpoint. A timer cannot
 * send, so the daemon is told what it needs to reset both ends.
 */
#ifndef LOX_ABORT_H
#define LOX_ABORT_H

#include "flow.h"

/* Many connections may end at once, before the daemon has read the first. Sized when loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} aborts SEC(".maps");

/*
 * Would both ends go on believing in it? One that was half-open for too long has an end that still tries, or has given up
 * by itself (RFC 5382 section 5); without an endpoint, a client that has its SYN,ACK would wait in vain.
 */
LOX_INLINE bool lox_believed(const struct lox_flow *f, bool orphaned)
{
	if (f->proto != IPPROTO_TCP)
		return false;
	return f->state == LOX_STATE_ESTABLISHED || f->state == LOX_STATE_CLOSING ||
	       (orphaned && f->state == LOX_STATE_SYN_RECEIVED);
}

/* Addresses and ports of both ends, from the direction of the client. */
LOX_INLINE void lox_ends_of(const bool v6, const struct lox_flow *forward, struct lox_abort *a)
{
	if (v6) {
		const struct lox_flow6 *six = (const void *)forward;

		a->client = six->saddr;
		a->vip = six->daddr;
		a->source = six->new_saddr;
		a->endpoint = six->new_daddr;
	} else {
		const struct lox_flow4 *four = (const void *)forward;

		a->client.v4 = four->saddr;
		a->vip.v4 = four->daddr;
		a->source.v4 = four->new_saddr;
		a->endpoint.v4 = four->new_daddr;
	}
	a->client_port = forward->sport;
	a->vip_port = forward->dport;
	a->source_port = forward->new_sport;
	a->endpoint_port = forward->new_dport;
	a->family = v6 ? 6 : 4;
}

/*
 * Have the ends of a connection told. `forward` is the direction from the client, `reply` the other one, which may be
 * missing. With direct server return the endpoint's side of it is not seen, so only the client is told. False where there is
 * no room now and the caller is `patient`; otherwise it is lost, and counted.
 */
LOX_INLINE bool lox_abort(const bool v6, const struct lox_flow *forward, const struct lox_flow *reply, __u32 rule,
			  bool active, bool patient)
{
	struct lox_runtime *rt = lox_runtime();
	struct lox_abort *a = bpf_ringbuf_reserve(&aborts, sizeof(*a), 0);
	__u64 said;

	if (!a) {
		if (rt && !patient)
			__sync_fetch_and_add(&rt->aborts_lost, 1);
		return !patient;
	}
	__builtin_memset(a, 0, sizeof(*a));
	lox_ends_of(v6, forward, a);
	a->at = bpf_ktime_get_ns();
	a->rule = rule;
	a->state = forward->state;
	a->tell = active ? LOX_TELL_ACTIVE : 0;
	said = READ_ONCE(forward->sequence);
	a->client_expects = said;
	a->tell |= said ? LOX_TELL_CLIENT : 0;
	said = reply && !(forward->flags & LOX_FLOW_DIRECT) ? READ_ONCE(reply->sequence) : 0;
	a->endpoint_expects = said;
	a->tell |= said ? LOX_TELL_ENDPOINT : 0;
	bpf_ringbuf_submit(a, 0);
	return true;
}

#endif
