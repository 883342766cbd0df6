// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The flow tables against a model, from several CPUs at once. Each run does many random operations. Half of the keys
 * are private to the CPU, which knows exactly what the table must answer for them; the others are shared by all, and
 * for them every answer must hang together: a rewrite belongs to its key, and insertions minus removals is what is left.
 */
#include "insert.h"

enum lox_violation {
	LOX_LOST,      /* a private key that is in the table was not found */
	LOX_PHANTOM,   /* a private key that is not in the table was found */
	LOX_DOUBLED,   /* a private key could be inserted twice */
	LOX_TORN,      /* a rewrite that belongs to another key */
	LOX_UNREMOVED, /* a private key could not be removed */
	LOX_VIOLATIONS,
};

struct lox_check {
	__u64 done;
	__u64 put;
	__u64 removed;
	__u64 full;
	__u64 busy;
	__u64 violations[LOX_VIOLATIONS];
};

struct lox_check_plan {
	__u32 operations;
	__u32 keys; /* private ones of a CPU, and as many shared */
};

LOX_ARRAY(check_plan, struct lox_check_plan, 0);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct lox_check);
} checks SEC(".maps");

/* Model: is private key (cpu * keys + n) in the table? Behind them: insertions minus removals of the shared keys. */
LOX_ARRAY(model, __s32, 0);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lox_insert);
} inserts SEC(".maps");

struct lox_round {
	__u32 cpu;
	__u32 keys;
};

LOX_INLINE void lox_check_key(const bool v6, __u32 id, struct lox_tuple *t)
{
	t->saddr.v4 = id;
	t->daddr.v4 = 0x0100000a;
	t->sport = 80;
	t->dport = id >> 16;
	t->proto = 6;
	if (v6) {
		t->saddr.half[1] = ~(__u64)id;
		t->daddr.half[1] = 7;
	}
}

/* The rewrite is a function of the key and of a random word, so that a mixture of two is seen. */
LOX_INLINE void lox_check_fill(struct lox_insert *in)
{
	__u32 random = bpf_get_prandom_u32();

	in->new_saddr.v4 = random;
	in->new_daddr.v4 = random ^ in->key.saddr.v4;
	in->new_sport = random;
	in->new_dport = random >> 16;
}

LOX_INLINE bool lox_check_torn(const bool v6, const struct lox_ref *ref, __u32 id)
{
	__u32 saddr, daddr;
	__u16 sport = ref->flow->new_sport, dport = ref->flow->new_dport;

	if (v6) {
		saddr = ((struct lox_flow6 *)ref->flow)->new_saddr.v4;
		daddr = ((struct lox_flow6 *)ref->flow)->new_daddr.v4;
	} else {
		saddr = ((struct lox_flow4 *)ref->flow)->new_saddr;
		daddr = ((struct lox_flow4 *)ref->flow)->new_daddr;
	}
	if (!lox_holds(ref))
		return false; /* the slot changed hands: such a packet is dropped */
	return daddr != (saddr ^ id) || sport != (__u16)saddr || dport != (__u16)(saddr >> 16);
}

LOX_INLINE void lox_check_put(const bool v6, const enum lox_table table, struct lox_check *check, struct lox_insert *in,
			      __s32 *model_at, bool private)
{
	int put = lox_put_in(v6, table, in);

	if (put == LOX_PUT_DONE) {
		check->put++;
		if (private && *model_at && table == LOX_MAIN)
			check->violations[LOX_DOUBLED]++;
		__sync_fetch_and_add(model_at, 1);
	} else if (put == LOX_PUT_EXISTS) {
		if (private && !*model_at && table == LOX_MAIN)
			check->violations[LOX_PHANTOM]++;
	} else if (put == LOX_PUT_FULL) {
		check->full++;
	} else {
		check->busy++;
	}
}

LOX_INLINE void lox_check_remove(const bool v6, struct lox_check *check, struct lox_tuple *t, struct lox_ref *ref,
				 __s32 *model_at, bool private)
{
	if (lox_drop(v6, t, ref)) {
		check->removed++;
		__sync_fetch_and_add(model_at, -1);
	} else if (private) {
		check->violations[LOX_UNREMOVED]++;
	}
}

/* One random operation on one random key. */
LOX_INLINE long lox_check_step(const bool v6, const enum lox_table table, struct lox_round *r)
{
	__u32 random = bpf_get_prandom_u32(), n = (random >> 8) % (r->keys | !r->keys), zero = 0;
	bool private = random & 1;
	__u32 id = private ? (r->cpu + 1) * r->keys + n : n;
	struct lox_insert *in = bpf_map_lookup_elem(&inserts, &zero);
	__s32 *model_at = bpf_map_lookup_elem(&model, &id);
	__u32 cpu = r->cpu;
	struct lox_check *check = bpf_map_lookup_elem(&checks, &cpu);
	struct lox_ref ref;

	if (!in || !model_at || !check)
		return 1;
	check->done++;
	__builtin_memset(in, 0, sizeof(*in));
	lox_check_key(v6, id, &in->key);
	lox_look_up(v6, table, &in->key, &ref);
	if (private && table == LOX_MAIN) {
		check->violations[LOX_LOST] += *model_at && !ref.flow;
		check->violations[LOX_PHANTOM] += !*model_at && ref.flow;
	}
	if (ref.flow)
		check->violations[LOX_TORN] += lox_check_torn(v6, &ref, id);
	lox_check_fill(in);
	if (ref.flow && random & 2)
		lox_check_remove(v6, check, &in->key, &ref, model_at, private && table == LOX_MAIN);
	else
		lox_check_put(v6, table, check, in, model_at, private);
	return 0;
}

static long lox_step_main4(__u32 i, struct lox_round *r)
{
	return lox_check_step(false, LOX_MAIN, r);
}

static long lox_step_main6(__u32 i, struct lox_round *r)
{
	return lox_check_step(true, LOX_MAIN, r);
}

static long lox_step_half4(__u32 i, struct lox_round *r)
{
	return lox_check_step(false, LOX_HALF, r);
}

static long lox_step_half6(__u32 i, struct lox_round *r)
{
	return lox_check_step(true, LOX_HALF, r);
}

LOX_RECORD(round_record, struct lox_round)
LOX_LOOP(lox_step_main4, struct lox_round, round_record)
LOX_LOOP(lox_step_main6, struct lox_round, round_record)
LOX_LOOP(lox_step_half4, struct lox_round, round_record)
LOX_LOOP(lox_step_half6, struct lox_round, round_record)

/* Returns how many operations there are. */
LOX_INLINE __u32 lox_check_begin(struct lox_round *r)
{
	__u32 zero = 0;
	struct lox_check_plan *plan = bpf_map_lookup_elem(&check_plan, &zero);

	r->cpu = bpf_get_smp_processor_id();
	r->keys = plan ? plan->keys : 0;
	return plan ? plan->operations : 0;
}

SEC("tc")
int check_main4(struct __sk_buff *ctx)
{
	struct lox_round r;
	__u32 length = lox_check_begin(&r);

	lox_step_main4_loop(length, &r);
	return !length;
}

SEC("tc")
int check_main6(struct __sk_buff *ctx)
{
	struct lox_round r;
	__u32 length = lox_check_begin(&r);

	lox_step_main6_loop(length, &r);
	return !length;
}

SEC("tc")
int check_half4(struct __sk_buff *ctx)
{
	struct lox_round r;
	__u32 length = lox_check_begin(&r);

	lox_step_half4_loop(length, &r);
	return !length;
}

SEC("tc")
int check_half6(struct __sk_buff *ctx)
{
	struct lox_round r;
	__u32 length = lox_check_begin(&r);

	lox_step_half6_loop(length, &r);
	return !length;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
