/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Ageing, inside the kernel: a timer walks a stripe of every table each tick. It ends flows that timed out or lost
 * their endpoint, and turns dead slots back into free ones. Both directions of a flow age together: it lives while
 * either of them sees packets.
 *
 * When endpoints were dropped, every slot is looked at twice in larger stripes: a packet under way may open one more flow
 * behind the first look. Connections for whose report there is no room just then are left to another look, for a while.
 */
#ifndef LOX_AGER_H
#define LOX_AGER_H

#include "abort.h"
#include "event.h"
#include "insert.h"
#include "service.h"
#include "state.h"

#define LOX_TICK_NS 4000000ULL
#define LOX_CLOCK_MONOTONIC 1
/* Slots of one table visited a tick: the whole table in a second, unless that is more than LOX_STRIPE slots a tick. */
#define LOX_PASS_TICKS 250
#define LOX_STRIPE 16384
/* Ticks during which the daemon may make room for reports. */
#define LOX_PATIENCE 1000

struct lox_cursor {
	__u32 at;
	__u32 live;
	__u32 purge; /* slots still to be looked at for flows without an endpoint */
};

struct lox_ager {
	struct bpf_timer timer;
	struct lox_cursor cursor[4];
	__u32 purge; /* lox_runtime.purge that was seen last */
	__u32 patience;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lox_ager);
} ager SEC(".maps");

/* One stripe: slots from `top` downwards. */
struct lox_stripe {
	__u32 top;
	__u32 live;
	__u32 now;
	__u32 purge;
	__u32 patience; /* ticks that the daemon is still waited for */
	__u32 again;    /* it is: look once more */
};

LOX_INLINE void lox_tuple_of(const bool v6, const struct lox_flow *f, struct lox_tuple *t)
{
	if (v6) {
		t->saddr = ((const struct lox_flow6 *)f)->saddr;
		t->daddr = ((const struct lox_flow6 *)f)->daddr;
	} else {
		t->saddr.v4 = ((const struct lox_flow4 *)f)->saddr;
		t->daddr.v4 = ((const struct lox_flow4 *)f)->daddr;
	}
	t->sport = f->sport;
	t->dport = f->dport;
	t->proto = f->proto;
}

LOX_INLINE __u32 lox_idle(const struct lox_flow *f, __u32 now)
{
	__u32 idle = now - READ_ONCE(f->last);

	return idle > 0x80000000U ? 0 : idle; /* seen by another CPU after `now` was read */
}

/* Jiffies this flow may be idle. One without replies that is established all the same has the rule's time. */
LOX_INLINE __u32 lox_timeout(const enum lox_table table, const struct lox_flow *f, const struct lox_cold *cold)
{
	struct lox_runtime *rt = lox_runtime();
	__u32 state = f->state < LOX_STATES ? f->state : 0, id = cold->rule;
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &id);

	if (table == LOX_MAIN && state == LOX_STATE_ONE_WAY)
		state = LOX_STATE_TWO_WAY;
	if (rt && rt->timeout[state])
		return rt->timeout[state];
	return rule ? rule->timeout : 0;
}

LOX_INLINE bool lox_orphaned(const struct lox_cold *cold)
{
	return !lox_live_endpoint(cold->endpoint, cold->rule);
}

/* May the flow's client use its rule no more? Its sources may have changed since the flow was opened. */
LOX_INLINE bool lox_barred(const bool v6, const struct lox_flow *f, const struct lox_cold *cold)
{
	__u32 id = cold->rule;
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &id);
	struct lox_tuple t = {};

	if (!rule || !rule->restricted)
		return false;
	if (f->flags & LOX_FLOW_REPLY)
		lox_reverse(v6, f, &t);
	else
		lox_tuple_of(v6, f, &t);
	return !lox_allowed(v6, rule, id, &t);
}

/* Has a packet of either direction come lately, as the state reckons? */
LOX_INLINE bool lox_in_use(const struct lox_ref *own, const struct lox_ref *peer, __u32 now)
{
	__u32 timeout = lox_timeout(own->table, own->flow, own->cold);

	return lox_idle(own->flow, now) <= timeout || (peer->flow && lox_idle(peer->flow, now) <= timeout);
}

/*
 * Tell the ends of a connection that it is given up. One without an endpoint that was in use just now lingers as a closed
 * one: packets under way are answered by a reset instead of going astray. In the half-open table a slot may change hands
 * at any time, so nothing lingers there. True if it does, or has to wait for its turn.
 */
LOX_INLINE bool lox_give_up(const bool v6, struct lox_ref *own, struct lox_ref *peer, struct lox_stripe *s,
			    bool orphaned)
{
	struct lox_ref *forward = own->flow->flags & LOX_FLOW_REPLY ? peer : own;
	struct lox_ref *reply = forward == own ? peer : own;
	bool lingers = orphaned && own->table == LOX_MAIN && peer->flow && peer->table == LOX_MAIN;

	if (!forward->flow || !lox_believed(own->flow, orphaned))
		return false;
	if (!lox_abort(v6, forward->flow, reply->flow, own->cold->rule, orphaned, orphaned && s->patience)) {
		s->again = 1;
		return true;
	}
	if (!lingers)
		return false;
	lox_leave_endpoint(forward->flow, own->cold->endpoint);
	lox_set_state(own->flow, peer->flow, LOX_STATE_RESET, false);
	lox_set_flags(own->flow, LOX_FLOW_ENDED);
	lox_set_flags(peer->flow, LOX_FLOW_ENDED);
	return lox_in_use(own, peer, s->now);
}

/* End both directions of a flow if it has been idle for too long, or has lost its endpoint or its right. True if it lives on. */
LOX_INLINE bool lox_age(const bool v6, const enum lox_table table, struct lox_ref *own, struct lox_stripe *s)
{
	struct lox_tuple t = {};
	struct lox_ref peer = {};
	bool orphaned = s->purge && !(own->flow->flags & LOX_FLOW_ENDED) &&
			(lox_orphaned(own->cold) || lox_barred(v6, own->flow, own->cold));

	if (!orphaned && lox_in_use(own, &peer, s->now))
		return true;
	lox_reverse(v6, own->flow, &t);
	lox_look_up(v6, LOX_MAIN, &t, &peer);
	if (!peer.flow)
		lox_look_up(v6, LOX_HALF, &t, &peer);
	if (!orphaned && lox_in_use(own, &peer, s->now))
		return true;
	if (lox_give_up(v6, own, &peer, s, orphaned))
		return true;
	if (peer.flow && lox_drop(v6, &t, &peer))
		lox_report(v6, peer.flow, own->cold, LOX_EVENT_ENDED);
	lox_tuple_of(v6, own->flow, &t);
	if (lox_drop(v6, &t, own))
		lox_report(v6, own->flow, own->cold, LOX_EVENT_ENDED);
	return false;
}

/* Does a live flow's lookup pass over slot `at` on its way? Then that slot must not become free. */
LOX_INLINE bool lox_passed_over(const bool v6, const enum lox_table table, __u32 at)
{
	__u32 mask = lox_mask(v6, table);
	struct lox_tuple t = {};

	for (__u32 i = 1; i < lox_window(table); i++) {
		__u32 place = (at + i) & mask;
		struct lox_flow *f = lox_slot(v6, table, place);
		__u32 slot = f ? READ_ONCE(f->word) & LOX_SLOT_MASK : LOX_SLOT_FREE;

		if (slot == LOX_SLOT_FREE)
			return false;
		if (slot == LOX_SLOT_CLAIMED)
			return true;
		if (slot == LOX_SLOT_DEAD || !f)
			continue;
		lox_tuple_of(v6, f, &t);
		if (((place - lox_hash(v6, &t)) & mask) >= i)
			return true;
	}
	return false;
}

/*
 * Make a dead slot free if no lookup depends on it, under the locks of all insertions that could be passing over it:
 * those at home in the window that ends here.
 */
LOX_INLINE void lox_sweep(const bool v6, const enum lox_table table, struct lox_flow *f, __u32 word, __u32 at)
{
	__u32 mask = lox_mask(v6, table), first = (at - (lox_window(table) - 1)) & mask;
	bool two = first >> LOX_REGION_SHIFT != at >> LOX_REGION_SHIFT;
	__u32 *lock = lox_lock_of(v6, table, at), *other = lox_lock_of(v6, table, first);

	if (!lock || !other || !lox_try_lock(lock))
		return;
	if (!two || lox_try_lock(other)) {
		if (!lox_passed_over(v6, table, at) &&
		    lox_swap(&f->word, word, word & ~LOX_SLOT_MASK) && table == LOX_MAIN)
			lox_mark_free(v6, at);
		if (two)
			lox_unlock(other);
	}
	lox_unlock(lock);
}

LOX_INLINE long lox_visit(const bool v6, const enum lox_table table, __u32 i, struct lox_stripe *s)
{
	struct lox_ref ref = { .at = (s->top - i) & lox_mask(v6, table), .table = table };
	__u32 slot;

	ref.flow = lox_slot(v6, table, ref.at);
	if (!ref.flow)
		return 1;
	ref.word = READ_ONCE(ref.flow->word);
	slot = ref.word & LOX_SLOT_MASK;
	if (slot == LOX_SLOT_DEAD && lox_idle(ref.flow, s->now) >= LOX_QUARANTINE)
		lox_sweep(v6, table, ref.flow, ref.word, ref.at);
	if (slot != LOX_SLOT_LIVE)
		return 0;
	ref.cold = lox_cold_of(v6, table, ref.flow, ref.at, false);
	s->live += !ref.cold || lox_age(v6, table, &ref, s);
	return 0;
}

static long lox_visit_main4(__u32 i, struct lox_stripe *s)
{
	return lox_visit(false, LOX_MAIN, i, s);
}

static long lox_visit_main6(__u32 i, struct lox_stripe *s)
{
	return lox_visit(true, LOX_MAIN, i, s);
}

static long lox_visit_half4(__u32 i, struct lox_stripe *s)
{
	return lox_visit(false, LOX_HALF, i, s);
}

static long lox_visit_half6(__u32 i, struct lox_stripe *s)
{
	return lox_visit(true, LOX_HALF, i, s);
}

LOX_RECORD(stripe_record, struct lox_stripe)
LOX_LOOP(lox_visit_main4, struct lox_stripe, stripe_record)
LOX_LOOP(lox_visit_main6, struct lox_stripe, stripe_record)
LOX_LOOP(lox_visit_half4, struct lox_stripe, stripe_record)
LOX_LOOP(lox_visit_half6, struct lox_stripe, stripe_record)

LOX_INLINE void lox_visit_slots(const bool v6, const enum lox_table table, __u32 length, struct lox_stripe *s)
{
	if (table == LOX_MAIN)
		return v6 ? lox_visit_main6_loop(length, s) : lox_visit_main4_loop(length, s);
	return v6 ? lox_visit_half6_loop(length, s) : lox_visit_half4_loop(length, s);
}

static long lox_visit_overflow(struct bpf_map *map, const void *key, struct lox_flow *f, struct lox_stripe *s,
			       const bool v6)
{
	struct lox_ref ref = { .flow = f, .word = READ_ONCE(f->word), .at = LOX_NOWHERE, .table = LOX_MAIN };

	ref.cold = lox_cold_of(v6, LOX_MAIN, f, LOX_NOWHERE, true);
	if ((ref.word & LOX_SLOT_MASK) == LOX_SLOT_LIVE)
		s->live += lox_age(v6, LOX_MAIN, &ref, s);
	return 0;
}

static long lox_visit_overflow4(struct bpf_map *map, const void *key, struct lox_whole4 *f, struct lox_stripe *s)
{
	return lox_visit_overflow(map, key, &f->flow.head, s, false);
}

static long lox_visit_overflow6(struct bpf_map *map, const void *key, struct lox_flow6 *f, struct lox_stripe *s)
{
	return lox_visit_overflow(map, key, &f->head, s, true);
}

LOX_INLINE __u32 lox_stripe_of(__u32 mask, bool purge)
{
	__u32 length = purge ? mask + 1 : mask / LOX_PASS_TICKS + 1;

	return length < LOX_STRIPE ? length : LOX_STRIPE;
}

/* Walk one stripe of one table; returns the table's live slots when a pass is complete, else -1. */
LOX_INLINE int lox_walk(const bool v6, const enum lox_table table, struct lox_cursor *c, struct lox_stripe *s)
{
	__u32 mask = lox_mask(v6, table), length = lox_stripe_of(mask, c->purge);
	int live = -1;

	s->purge = c->purge;
	s->again = 0;
	c->purge -= length < c->purge ? length : c->purge;
	s->top = c->at - 1;
	s->live = 0;
	lox_visit_slots(v6, table, length, s);
	if (s->again)
		c->purge = 2 * (mask + 1);
	c->live += s->live;
	c->at = (c->at - length) & mask;
	if (c->at + length > mask) { /* went past slot 0 */
		live = c->live;
		c->live = 0;
	}
	return live;
}

LOX_INLINE void lox_publish(__u32 *to, int live)
{
	if (live >= 0)
		WRITE_ONCE(*to, live);
}

/* Endpoints were dropped: look at every slot twice. */
LOX_INLINE void lox_start_purge(struct lox_ager *a, const struct lox_runtime *rt)
{
	__u32 purge = READ_ONCE(rt->purge);

	if (a->purge == purge)
		return;
	a->purge = purge;
	a->patience = LOX_PATIENCE;
	a->cursor[0].purge = 2 * (cfg.flow4_mask + 1);
	a->cursor[1].purge = 2 * (cfg.flow6_mask + 1);
	a->cursor[2].purge = 2 * (cfg.half4_mask + 1);
	a->cursor[3].purge = 2 * (cfg.half6_mask + 1);
}

LOX_INLINE void lox_tick(struct lox_ager *a, struct lox_runtime *rt)
{
	struct lox_stripe s = { .now = lox_now() };
	int live;

	lox_start_purge(a, rt);
	s.patience = a->patience;
	a->patience -= !!a->patience;
	live = lox_walk(false, LOX_MAIN, &a->cursor[0], &s);
	lox_publish(&rt->live4, live);
	rt->pass += live >= 0;
	if (live >= 0 && READ_ONCE(rt->overflow4))
		lox_for_each(overflow4, lox_visit_overflow4, &s);
	if (s.again)
		a->cursor[0].purge = 2 * (cfg.flow4_mask + 1);
	live = lox_walk(true, LOX_MAIN, &a->cursor[1], &s);
	lox_publish(&rt->live6, live);
	if (live >= 0 && READ_ONCE(rt->overflow6))
		lox_for_each(overflow6, lox_visit_overflow6, &s);
	if (s.again)
		a->cursor[1].purge = 2 * (cfg.flow6_mask + 1);
	lox_publish(&rt->half4, lox_walk(false, LOX_HALF, &a->cursor[2], &s));
	lox_publish(&rt->half6, lox_walk(true, LOX_HALF, &a->cursor[3], &s));
}

static int lox_on_timer(void *map, __u32 *key, struct lox_ager *a)
{
	struct lox_runtime *rt = lox_runtime();

	if (rt)
		lox_tick(a, rt);
	bpf_timer_start(&a->timer, LOX_TICK_NS, 0);
	return 0;
}

/* Start the timer; it runs as long as the map exists. Returns 0 or a negative errno. */
LOX_INLINE int lox_start_ager(void)
{
	__u32 zero = 0;
	struct lox_ager *a = bpf_map_lookup_elem(&ager, &zero);

	if (!a)
		return -1;
	bpf_timer_init(&a->timer, &ager, LOX_CLOCK_MONOTONIC);
	bpf_timer_set_callback(&a->timer, lox_on_timer);
	return bpf_timer_start(&a->timer, LOX_TICK_NS, 0);
}

#endif
