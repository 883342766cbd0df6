/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The pipeline under random packets. Each run makes a packet from a template, changes some of its bytes, hands it to the
 * program and checks what comes back; repeated with BPF_PROG_TEST_RUN. The packets depend on the seed alone. A shim and
 * lox_fuzz_load(), lox_fuzz_store(), lox_fuzz_resize() come before this file.
 */
#ifndef LOX_FUZZ_H
#define LOX_FUZZ_H

#include "checksum.h"
#include "payload.h"
#include "verdict.h"

#define LOX_FUZZ_BYTES 128
#define LOX_FUZZ_WORDS (LOX_FUZZ_BYTES / 2)
#define LOX_FUZZ_TEMPLATES 1024
#define LOX_FUZZ_SPOTS 16

enum lox_fuzz_violation {
	LOX_FUZZ_COUNTED,  /* not exactly one reason was counted */
	LOX_FUZZ_VERDICT,  /* the verdict is not the one that the reason implies */
	LOX_FUZZ_MODIFIED, /* passed, but not as it arrived */
	LOX_FUZZ_HEADER,   /* what the IPv4 header adds up to has changed */
	LOX_FUZZ_SEGMENT,  /* what the transport checksum covers, and the checksum, add up to something else */
	LOX_FUZZ_BYTE,     /* a byte has changed that is not translated */
	LOX_FUZZ_HOPS,     /* TTL or hop limit is not what it has to be */
	LOX_FUZZ_ANSWER,   /* an answer with a wrong checksum, or not to the sender */
	LOX_FUZZ_VIOLATIONS,
};

/* A packet, and the offsets whose change leads somewhere: flags, ports, lengths, versions. */
struct lox_fuzz_template {
	__u16 word[LOX_FUZZ_WORDS];
	__u8 spot[LOX_FUZZ_SPOTS];
};

union lox_fuzz_packet {
	__u16 word[LOX_FUZZ_WORDS];
	__u8 byte[LOX_FUZZ_BYTES];
};

/*
 * Packets counted by what their reason implies: passed, sent translated, translated and left to the stack, fragments
 * without a transport header, translated ICMP errors, answers in their place, dropped.
 */
struct lox_fuzz_counts {
	__u64 passed;
	__u64 sent;
	__u64 local;
	__u64 loopback;
	__u64 fragment;
	__u64 error;
	__u64 answered;
	__u64 dropped;
};

struct lox_fuzz {
	__u64 random;
	__u64 runs;
	__u64 violations[LOX_FUZZ_VIOLATIONS];
	__u32 templates;
	__u32 length;
	__u32 violation; /* the first one, plus 1; with its packets */
	__u32 verdict;
	union lox_fuzz_packet first_before;
	union lox_fuzz_packet first_after;
	union lox_fuzz_packet before;
	union lox_fuzz_packet after;
	struct lox_fuzz_counts was;
};

LOX_ARRAY(fuzz, struct lox_fuzz, BPF_F_MMAPABLE);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOX_FUZZ_TEMPLATES);
	__type(key, __u32);
	__type(value, struct lox_fuzz_template);
} fuzz_templates SEC(".maps");

LOX_INLINE struct lox_fuzz *lox_fuzz(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fuzz, &zero);
}

/* xorshift64* */
LOX_INLINE __u32 lox_fuzz_random(struct lox_fuzz *f)
{
	__u64 x = f->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	f->random = x;
	return x * 0x2545f4914f6cdd1dULL >> 32;
}

/* Change up to three bytes: of one packet in eight to anything anywhere, of the others at the template's spots. */
LOX_INLINE void lox_fuzz_mutate(struct lox_fuzz *f, const struct lox_fuzz_template *t)
{
	__u32 dice = lox_fuzz_random(f), changes = dice & 3;

	for (__u32 i = 0; i < 3; i++) {
		__u32 value = lox_fuzz_random(f);
		__u32 at = dice & 0x1c ? t->spot[value >> 28] : value >> 24;

		if (i < changes)
			f->before.byte[at & (LOX_FUZZ_BYTES - 1)] = value;
	}
}

/* Read or write the first bytes of the frame. */
LOX_INLINE long lox_fuzz_move(lox_ctx *ctx, union lox_fuzz_packet *p, __u32 length, const bool store)
{
	OPAQUE(length); /* two comparisons that the compiler must not make one of: the verifier follows these */
	if (length > LOX_FUZZ_BYTES)
		return -1;
	OPAQUE(length);
	if (!length)
		return -1;
	return store ? lox_fuzz_store(ctx, p, length) : lox_fuzz_load(ctx, p, length);
}

/* Keep what the frame holds in `to`, the rest zero. */
LOX_INLINE long lox_fuzz_take(lox_ctx *ctx, union lox_fuzz_packet *to, __u32 length)
{
	__builtin_memset(to, 0, sizeof(*to));
	return lox_fuzz_move(ctx, to, length, false);
}

static long lox_fuzz_count_one(__u32 i, struct lox_fuzz_counts *c)
{
	__u64 *n = bpf_map_lookup_elem(&reasons, &i);

	if (!n)
		return 0;
	if (i <= LOX_PASS_LAST)
		c->passed += *n;
	else if (i == LOX_FORWARD_LOCAL)
		c->local += *n;
	else if (i == LOX_FORWARD_LOOPBACK)
		c->loopback += *n;
	else if (i == LOX_FORWARD_FRAGMENT)
		c->fragment += *n;
	else if (i == LOX_FORWARD_ICMP_ERROR)
		c->error += *n;
	else if (i >= LOX_ANSWER_RESET && i <= LOX_ANSWER_EXPIRED)
		c->answered += *n;
	else if (i <= LOX_FORWARD_LAST)
		c->sent += *n;
	else
		c->dropped += *n;
	return 0;
}

LOX_INLINE void lox_fuzz_count(struct lox_fuzz_counts *c)
{
	struct lox_fuzz_counts sum = {};

	bpf_loop(LOX_REASONS, lox_fuzz_count_one, &sum, 0);
	*c = sum;
}

/* Make a packet and write it into the frame. Not 0 when that cannot be. */
__noinline int lox_fuzz_make(lox_ctx *ctx)
{
	struct lox_fuzz *f = lox_fuzz();
	struct lox_fuzz_template *t;
	__u32 at;

	if (!f)
		return -1;
	at = lox_fuzz_random(f) % (f->templates | !f->templates);
	t = bpf_map_lookup_elem(&fuzz_templates, &at);
	if (!t)
		return -1;
	__builtin_memcpy(&f->before, t->word, sizeof(f->before));
	lox_fuzz_mutate(f, t);
	f->length = lox_end(ctx) - lox_data(ctx);
	lox_fuzz_count(&f->was);
	return lox_fuzz_move(ctx, &f->before, f->length, true) || lox_fuzz_take(ctx, &f->before, f->length);
}

LOX_INLINE void lox_fuzz_note(struct lox_fuzz *f, enum lox_fuzz_violation violation, __u32 verdict)
{
	f->violations[violation]++;
	if (f->violation)
		return;
	f->violation = violation + 1;
	f->verdict = verdict;
	__builtin_memcpy(&f->first_before, &f->before, sizeof(f->before));
	__builtin_memcpy(&f->first_after, &f->after, sizeof(f->after));
}

/* Where the parts of a packet are, in 16-bit words, and what its two states add up to. */
struct lox_fuzz_view {
	struct lox_fuzz *f;
	__u32 l4;
	__u32 check; /* from l4 on */
	__u32 first; /* of the addresses */
	__u32 last;
	bool v6;
	bool ports;
	bool pseudo_header;
	bool whole;  /* the transport header is translated, too */
	bool error;  /* an ICMP error, whose quote is translated */
	bool kept;   /* no hop is taken off: the stack does */
	bool others; /* a word has changed that must not */
	__u64 header[2];
	__u64 segment[2];
};

LOX_INLINE void lox_fuzz_view(struct lox_fuzz *f, struct lox_fuzz_view *v)
{
	__u8 proto;

	__builtin_memset(v, 0, sizeof(*v));
	v->f = f;
	v->v6 = f->before.word[6] == bpf_htons(ETH_P_IPV6);
	proto = f->before.byte[v->v6 ? 20 : 23];
	v->l4 = LOX_L3 / 2 + (v->v6 ? 20 : (f->before.byte[LOX_L3] & 15) * 2);
	v->check = proto == IPPROTO_TCP ? 8 : proto == IPPROTO_UDP ? 3 : 1;
	v->first = v->v6 ? 11 : 13;
	v->last = v->v6 ? 26 : 16;
	v->ports = proto == IPPROTO_TCP || proto == IPPROTO_UDP;
	v->pseudo_header = proto != IPPROTO_ICMP;
}

/* May word i change when the packet is translated? */
LOX_INLINE bool lox_fuzz_translated(const struct lox_fuzz_view *v, __u32 i)
{
	if (i < 6 || (i >= v->first && i <= v->last) || (v->whole && i == v->l4 + v->check))
		return true;
	if (v->v6 ? i == 10 : i == 11 || i == 12) /* hops, IPv4 checksum */
		return true;
	if (!v->whole)
		return false;
	if (v->error)
		return i >= v->l4 + 4;
	return v->ports ? i == v->l4 || i == v->l4 + 1 : i == v->l4 + 2;
}

static long lox_fuzz_compare(__u32 i, struct lox_fuzz_view *v)
{
	__u32 at = i & (LOX_FUZZ_WORDS - 1);
	__u16 before = v->f->before.word[at], after = v->f->after.word[at];

	if (i >= LOX_L3 / 2 && i < v->l4 && !v->v6) {
		v->header[0] += before;
		v->header[1] += after;
	}
	if (i >= v->l4 || (v->pseudo_header && i >= v->first && i <= v->last)) {
		v->segment[0] += before;
		v->segment[1] += after;
	}
	v->others |= before != after && !lox_fuzz_translated(v, i);
	return 0;
}

/* Zero and 0xffff are the same sum (RFC 1071 section 1). */
LOX_INLINE bool lox_fuzz_same_sum(const __u64 *sums)
{
	return lox_csum_fold(sums[0]) % 0xffff == lox_csum_fold(sums[1]) % 0xffff;
}

/* Does the packet say that it has no transport checksum? Then it keeps none. */
LOX_INLINE bool lox_fuzz_unsummed(const struct lox_fuzz_view *v)
{
	__u32 at = (v->l4 + v->check) & (LOX_FUZZ_WORDS - 1);

	return v->check == 3 && !v->f->before.word[at] && !v->f->after.word[at];
}

LOX_INLINE bool lox_fuzz_hops_right(const struct lox_fuzz_view *v)
{
	__u32 at = v->v6 ? 10 : 11, one = v->v6 ? 0x100 : 1;

	return v->f->after.word[at] == v->f->before.word[at] - (v->kept ? 0 : one);
}

/* A packet that was sent on: only what is translated has changed, and every checksum is as right as it was. */
LOX_INLINE void lox_fuzz_check_sent(struct lox_fuzz *f, __u32 verdict, const struct lox_fuzz_counts *now)
{
	struct lox_fuzz_view v;

	lox_fuzz_view(f, &v);
	v.whole = !now->fragment && (v.v6 || !(f->before.word[10] & bpf_htons(0x1fff)));
	v.error = v.v6 ? !v.ports && lox_is_error6(f->before.byte[54]) :
			 !v.ports && !v.pseudo_header && lox_is_error4(f->before.byte[v.l4 * 2 & (LOX_FUZZ_BYTES - 1)]);
	v.kept = now->local || now->loopback;
	bpf_loop(LOX_FUZZ_WORDS, lox_fuzz_compare, &v, 0);
	if (!lox_fuzz_same_sum(v.header))
		lox_fuzz_note(f, LOX_FUZZ_HEADER, verdict);
	if (v.whole && !lox_fuzz_same_sum(v.segment) && !lox_fuzz_unsummed(&v))
		lox_fuzz_note(f, LOX_FUZZ_SEGMENT, verdict);
	if (v.others)
		lox_fuzz_note(f, LOX_FUZZ_BYTE, verdict);
	if (!lox_fuzz_hops_right(&v))
		lox_fuzz_note(f, LOX_FUZZ_HOPS, verdict);
}

/* Offsets of what an answer must hold: the sender's addresses of the packet that it answers. */
LOX_INLINE bool lox_fuzz_to_sender(const struct lox_fuzz *f, const bool v6)
{
	__u32 source = v6 ? 22 : 26, bytes = v6 ? 16 : 4;

	for (__u32 i = 0; i < 6; i++)
		if (f->after.byte[i] != f->before.byte[6 + i] || f->after.byte[6 + i] != f->before.byte[i])
			return false;
	for (__u32 i = 0; i < 16; i++)
		if (i < bytes && f->after.byte[source + bytes + i] != f->before.byte[source + i])
			return false;
	return true;
}

/* Do header and segment of an answer add up? It has neither options nor extensions. */
LOX_INLINE bool lox_fuzz_adds_up(lox_ctx *ctx, const struct lox_fuzz *f, const bool v6)
{
	__u32 l4 = LOX_L3 + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u8 proto = f->after.byte[v6 ? 20 : 23];
	__u64 header = 0, segment = 0;

	for (__u32 i = 0; i < 10; i++)
		header += f->after.word[7 + i];
	if (!v6 && lox_csum_fold(header) != 0xffff)
		return false;
	if (proto != IPPROTO_ICMP) {
		segment = bpf_htons((__u16)(lox_end(ctx) - lox_data(ctx) - l4)) + bpf_htons((__u16)proto);
		for (__u32 i = 0; i < 16; i++)
			segment += v6 ? f->after.word[11 + i] : i < 4 ? f->after.word[13 + i] : 0;
	}
	lox_reach(ctx, 0xffff);
	return lox_csum_fold(segment + lox_csum_rest(ctx, l4, lox_end(ctx) - lox_data(ctx) - l4)) == 0xffff;
}

__noinline int lox_fuzz_check_answer(lox_ctx *ctx, __u32 verdict)
{
	struct lox_fuzz *f = lox_fuzz();
	bool right;

	if (!f)
		return -1;
	if (f->before.word[6] == bpf_htons(ETH_P_IPV6))
		right = lox_fuzz_to_sender(f, true) && lox_fuzz_adds_up(ctx, f, true);
	else
		right = lox_fuzz_to_sender(f, false) && lox_fuzz_adds_up(ctx, f, false);
	if (!right)
		lox_fuzz_note(f, LOX_FUZZ_ANSWER, verdict);
	return 0;
}

static long lox_fuzz_differ(__u32 i, struct lox_fuzz_view *v)
{
	__u32 at = i & (LOX_FUZZ_WORDS - 1);

	v->others |= v->f->before.word[at] != v->f->after.word[at];
	return 0;
}

LOX_INLINE void lox_fuzz_check_passed(struct lox_fuzz *f, __u32 verdict)
{
	struct lox_fuzz_view v = { .f = f };

	bpf_loop(LOX_FUZZ_WORDS, lox_fuzz_differ, &v, 0);
	if (v.others)
		lox_fuzz_note(f, LOX_FUZZ_MODIFIED, verdict);
}

/* Compare verdict, counters and packet of one run. */
__noinline int lox_fuzz_check(lox_ctx *ctx, __u32 verdict)
{
	struct lox_fuzz *f = lox_fuzz();
	struct lox_fuzz_counts now;
	__u32 length = lox_end(ctx) - lox_data(ctx);

	if (!f || lox_fuzz_take(ctx, &f->after, length < f->length ? length : f->length))
		return -1;
	f->runs++;
	lox_fuzz_count(&now);
	now.passed -= f->was.passed;
	now.sent -= f->was.sent;
	now.local -= f->was.local;
	now.loopback -= f->was.loopback;
	now.fragment -= f->was.fragment;
	now.error -= f->was.error;
	now.answered -= f->was.answered;
	now.dropped -= f->was.dropped;
	if (now.passed + now.sent + now.local + now.loopback + now.fragment + now.error + now.answered + now.dropped != 1)
		lox_fuzz_note(f, LOX_FUZZ_COUNTED, verdict);
	if ((verdict == (__u32)LOX_PASS) != (now.passed + now.local) || (verdict == LOX_DROP) != now.dropped)
		lox_fuzz_note(f, LOX_FUZZ_VERDICT, verdict);
	if (now.passed)
		lox_fuzz_check_passed(f, verdict);
	if (now.sent + now.local + now.loopback + now.fragment + now.error)
		lox_fuzz_check_sent(f, verdict, &now);
	return now.answered ? lox_fuzz_check_answer(ctx, verdict) : 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} fuzz_target SEC(".maps");

/* The program as it is attached; it comes back here wherever it ends, in a step or in itself. */
__noinline int lox_fuzz_target(lox_ctx *ctx)
{
	int verdict = -1;

	bpf_tail_call(ctx, &fuzz_target, 0);
	OPAQUE(verdict); /* the compiler must not take -1 for the only answer */
	return verdict;
}

/* One run. LOX_DROP: it could not be made, and is not counted. An answer may be longer or shorter than the next packet. */
LOX_INLINE int lox_fuzz_one(lox_ctx *ctx)
{
	struct lox_fuzz *f = lox_fuzz();

	if (!f || lox_fuzz_make(ctx))
		return LOX_DROP;
	if (lox_fuzz_check(ctx, lox_fuzz_target(ctx)))
		return LOX_DROP;
	return lox_fuzz_resize(ctx, f->length) ? LOX_DROP : LOX_PASS;
}

#endif
