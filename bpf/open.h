/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A new flow: choose an endpoint, allocate the source port, insert both directions as half-open. */
#ifndef LOX_OPEN_H
#define LOX_OPEN_H

#include "insert.h"
#include "service.h"
#include "state.h"
#include "work.h"

#define LOX_FIRST_PORT 1024
#define LOX_PORTS (65536 - LOX_FIRST_PORT)

/* Source port number `try`: the client's own first, then others from a random start. */
LOX_INLINE __be16 lox_candidate(__be16 own, __u32 start, __u32 try)
{
	return try ? bpf_htons(LOX_FIRST_PORT + (start + try * 7919) % LOX_PORTS) : own;
}

/* The direction from the endpoint: arrives for (source, port), becomes what the client expects. */
LOX_INLINE void lox_reply_of(const struct lox_tuple *t, const struct lox_endpoint *endpoint, struct lox_insert *in)
{
	bool echo = t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6;

	in->key.saddr = endpoint->addr;
	in->key.sport = echo ? 0 : endpoint->port;
	in->key.proto = t->proto;
	in->new_saddr = t->daddr;
	in->new_daddr = t->saddr;
	in->new_sport = t->dport;
	in->new_dport = t->sport;
	in->flags |= LOX_FLOW_REPLY;
}

/* Turn the inserted reply direction into the forward one. */
LOX_INLINE void lox_forward_of(const struct lox_tuple *t, struct lox_insert *in)
{
	in->new_saddr = in->key.daddr;
	in->new_daddr = in->key.saddr;
	in->new_sport = in->key.dport;
	in->new_dport = in->key.sport;
	in->key = *t;
	in->flags &= ~LOX_FLOW_REPLY;
}

/* Take back what was inserted at `at`. */
LOX_INLINE void lox_abandon(const bool v6, struct lox_tuple *key, __u32 at)
{
	struct lox_ref ref;

	lox_look_up(v6, LOX_HALF, key, &ref);
	if (ref.flow && ref.at == at)
		lox_drop(v6, key, &ref);
}

/* Insert the reply direction under the first free source port. Returns 0 or the reason to drop. */
LOX_INLINE int lox_open_reply(const bool v6, const struct lox_tuple *t, struct lox_insert *in)
{
	__u32 start = 0;

	for (__u32 try = 0; try < LOX_PORT_TRIES; try++) {
		int put;

		if (try == 1) {
			start = bpf_get_prandom_u32();
			in->flags |= LOX_FLOW_SOURCE;
		}
		in->key.dport = lox_candidate(t->sport, start, try);
		put = lox_put_in(v6, LOX_HALF, in);
		if (put == LOX_PUT_EXISTS)
			continue;
		if (put != LOX_PUT_DONE)
			return put == LOX_PUT_BUSY ? LOX_DROP_BUSY : LOX_DROP_TABLE_FULL;
		/* A flow enters the large table before it leaves the half-open one: to miss it in both, look here last. */
		if (!lox_present(v6, LOX_MAIN, &in->key))
			return 0;
		lox_abandon(v6, &in->key, in->at);
	}
	return LOX_DROP_NO_PORT;
}

/*
 * Source the endpoint sees, which the reply comes back to. In default mode it is the client's own, unless the client is
 * the endpoint, which would then answer itself, or a service on the way hides it: to the endpoint the service is the
 * client. An endpoint on this host sees the client in every mode: its stack takes no packet from outside that comes from
 * an address of its own (RFC 1812 section 5.3.8). Returns 0 or the reason to drop.
 */
LOX_INLINE int lox_source(const bool v6, const struct lox_tuple *t, __u32 mode, const struct lox_endpoint *endpoint,
			  struct lox_insert *in)
{
	const union lox_addr *source = &endpoint->source;
	bool known = v6 ? source->half[0] | source->half[1] : source->v4;
	bool itself = v6 ? lox_equal6(&t->saddr, &endpoint->addr) : t->saddr.v4 == endpoint->addr.v4;

	if ((mode == LOX_MODE_DEFAULT && !itself && !(in->flags & LOX_FLOW_SOURCE)) ||
	    lox_host(v6, &endpoint->addr) == LOX_HOST_LOCAL) {
		in->flags &= ~LOX_FLOW_SOURCE;
		in->key.daddr = t->saddr;
		return 0;
	}
	if (mode != LOX_MODE_DEFAULT && !known)
		return LOX_DROP_NO_SOURCE;
	in->key.daddr = known ? *source : t->daddr;
	in->flags |= LOX_FLOW_SOURCE;
	return 0;
}

/* Count one half-open flow more of a rule, unless that is one too many. */
LOX_INLINE bool lox_admit(__u32 rule_id)
{
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &rule_id);
	__s32 before = lox_count_half_open(rule_id, 1);

	if (!rule || !lox_crowded(rule, before))
		return true;
	lox_count_half_open(rule_id, -1);
	return false;
}

/* What the client has said with its first segment. */
LOX_INLINE void lox_said_at_first(struct lox_work *w)
{
	bool syn = w->in.state == LOX_STATE_SYN_SENT;

	w->in.sequence = 0;
	if (w->p.tuple.proto != IPPROTO_TCP)
		return;
	w->in.window_scale = syn ? w->scale : LOX_SCALE_UNKNOWN;
	if (!syn)
		w->in.sequence = lox_said(bpf_ntohl(w->p.ack), bpf_ntohs(w->p.window) << LOX_SCALE_UNKNOWN);
}

/*
 * Insert the forward direction. When another CPU has opened the flow meanwhile, its endpoint stands and the reply
 * direction inserted here ends. Returns 0 or the reason to drop.
 */
LOX_INLINE int lox_open_forward(const bool v6, struct lox_work *w)
{
	__u32 reply_at = w->in.at;
	int put;

	w->reverse = w->in.key;
	w->in.keep = reply_at;
	lox_forward_of(&w->p.tuple, &w->in);
	lox_said_at_first(w);
	if (!lox_admit(w->in.cold.rule)) {
		lox_abandon(v6, &w->reverse, reply_at);
		return LOX_DROP_HALF_OPEN;
	}
	lox_count_flow(w->in.cold.endpoint, 1); /* before it can end */
	put = lox_put_in(v6, LOX_HALF, &w->in);
	if (put != LOX_PUT_DONE) {
		lox_count_flow(w->in.cold.endpoint, -1);
		lox_count_half_open(w->in.cold.rule, -1);
	}
	if (put == LOX_PUT_DONE && !lox_present(v6, LOX_MAIN, &w->in.key)) {
		lox_count_opened(w->in.cold.endpoint);
		return 0;
	}
	if (put == LOX_PUT_DONE)
		lox_abandon(v6, &w->in.key, w->in.at);
	lox_abandon(v6, &w->reverse, reply_at);
	if (put == LOX_PUT_DONE || put == LOX_PUT_EXISTS)
		return 0;
	return put == LOX_PUT_BUSY ? LOX_DROP_BUSY : LOX_DROP_TABLE_FULL;
}

/* State a flow starts in. A segment in mid-stream is one of an established connection. */
LOX_INLINE __u8 lox_first_state(const struct lox_packet *p)
{
	if (p->tuple.proto != IPPROTO_TCP)
		return LOX_STATE_ONE_WAY;
	return p->tcp_flags & LOX_TCP_SYN ? LOX_STATE_SYN_SENT : LOX_STATE_ESTABLISHED;
}

/*
 * Direct server return: both directions keep their addresses. Replies need not come by; those that do, since this host
 * is the endpoint's router, are forwarded here: to the kernel they would be packets from an address of its own.
 */
LOX_INLINE int lox_open_direct(const bool v6, struct lox_work *w)
{
	const struct lox_tuple *t = &w->p.tuple;
	int put = LOX_PUT_EXISTS;

	w->in.key.saddr = w->in.new_saddr = t->daddr;
	w->in.key.daddr = w->in.new_daddr = t->saddr;
	w->in.key.sport = w->in.new_sport = t->dport;
	w->in.key.dport = w->in.new_dport = t->sport;
	w->in.key.proto = t->proto;
	w->in.flags = LOX_FLOW_REPLY;
	if (w->in.state == LOX_STATE_ONE_WAY) /* replies are not expected here, so it is established without them */
		w->in.state = LOX_STATE_TWO_WAY;
	w->in.at = LOX_NOWHERE;
	if (!lox_present(v6, LOX_MAIN, &w->in.key))
		put = lox_put_in(v6, LOX_HALF, &w->in);
	if (put != LOX_PUT_DONE && put != LOX_PUT_EXISTS)
		return put == LOX_PUT_BUSY ? LOX_DROP_BUSY : LOX_DROP_TABLE_FULL;
	w->in.flags |= LOX_FLOW_DIRECT;
	return lox_open_forward(v6, w);
}

/*
 * Choose the endpoint of a new flow. One that is a service of this load balancer itself stands for an endpoint of that
 * service, and the flow is the last service's. Fills rule and endpoint, and says whether a service on the way hides the
 * client. Returns 0 or the reason to drop.
 */
LOX_INLINE int lox_settle_endpoint(const bool v6, struct lox_work *w, __u32 rule_id)
{
	for (int i = 0; i <= LOX_SERVICES_BEHIND; i++) {
		struct lox_rule *rule = bpf_map_lookup_elem(&rules, &rule_id);
		struct lox_endpoint *endpoint;
		int id;

		if (!rule || (!lox_opens(&w->p) && !lox_picks_up(&w->p, rule)))
			return LOX_DROP_NOT_SYN;
		id = v6 ? lox_choose6(rule_id) : lox_choose4(rule_id);
		if (id <= 0)
			return -id;
		endpoint = lox_live_endpoint(id, rule_id);
		if (!endpoint)
			return LOX_DROP_NO_ENDPOINT;
		w->in.cold.rule = rule_id;
		w->in.cold.endpoint = id;
		if (rule->mode == LOX_MODE_DSR) /* its endpoint has the service's own address */
			return i ? LOX_DROP_LOOP : 0;
		rule_id = lox_service_at(v6, &endpoint->addr, endpoint->port, w->p.tuple.proto);
		if (!rule_id || rule_id == w->in.cold.rule) /* the same one: a server of this host, at its own address */
			return 0;
		w->in.flags |= rule->mode == LOX_MODE_DEFAULT ? 0 : LOX_FLOW_SOURCE;
	}
	return LOX_DROP_LOOP;
}

/*
 * Open a flow to one of the rule's endpoints. Returns 0 when it is in the half-open table (or a twin, opened by another
 * CPU at the same moment, is in either table), else the reason to drop.
 */
LOX_INLINE int lox_open(const bool v6, __u32 rule_id)
{
	struct lox_work *w = lox_work();
	struct lox_endpoint *endpoint;
	struct lox_rule *rule;
	int reason;

	if (!w)
		return LOX_DROP_BUSY;
	__builtin_memset(&w->in, 0, sizeof(w->in));
	reason = lox_settle_endpoint(v6, w, rule_id);
	if (reason)
		return reason;
	rule_id = w->in.cold.rule;
	rule = bpf_map_lookup_elem(&rules, &rule_id);
	endpoint = lox_live_endpoint(w->in.cold.endpoint, rule_id);
	if (!rule || !endpoint)
		return LOX_DROP_NO_ENDPOINT;
	w->in.keep = LOX_NOWHERE;
	w->in.state = lox_first_state(&w->p);
	w->in.cold.created = lox_now();
	w->in.window_scale = w->in.state == LOX_STATE_ESTABLISHED ? LOX_SCALE_UNKNOWN : 0;
	if (rule->mode == LOX_MODE_DSR)
		return lox_open_direct(v6, w);
	lox_reply_of(&w->p.tuple, endpoint, &w->in);
	if (w->in.state == LOX_STATE_SYN_SENT)
		w->in.sequence = lox_expected_of_syn(w);
	reason = lox_source(v6, &w->p.tuple, rule->mode, endpoint, &w->in);
	if (reason)
		return reason;
	reason = lox_open_reply(v6, &w->p.tuple, &w->in);
	if (reason)
		return reason;
	return lox_open_forward(v6, w);
}

__noinline int lox_open4(__u32 rule_id)
{
	return lox_open(false, rule_id);
}

__noinline int lox_open6(__u32 rule_id)
{
	return lox_open(true, rule_id);
}

#endif
