/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The only file both sides read: keys, values, enums and reasons of the data plane.
 *
 * Python mirrors it in loxilb/kernel/abi.py; a test lets the compiler compare sizes and offsets. Addresses and ports
 * are in network byte order, everything else in host order. Times are jiffies, truncated to 32 bits. Padding is named.
 *
 * Pinned maps outlive the programs, and are read by those of the next release. Whoever changes the layout or the meaning of
 * a member, or struct lox_ager, raises LOX_ABI_VERSION: a daemon does not take over maps of another version. A new value at
 * the end of an enum changes nothing for those before it. What only programs of one build share (the records `work` and
 * `spill`, the steps of tail calls) is no ABI: every build has its own.
 */
#ifndef LOX_ABI_H
#define LOX_ABI_H

#include <linux/types.h>

#define LOX_ABI_VERSION 2

/*
 * A service address sets one bit of the map `served`, (word * LOX_SERVED_FACTOR) >> 16 where `word` is the exclusive or of
 * the address's 32-bit words as they are in memory. A packet for another address is mostly known to be not ours by a look
 * at 8 KiB that stay in the cache.
 */
#define LOX_SERVED_BITS 65536
#define LOX_SERVED_FACTOR 0x9e3779b1U

/* Slots of a table that one key may occupy, from its hash on. */
#define LOX_WINDOW 16
#define LOX_HALF_WINDOW 8
/* Insertions into one region of a table exclude each other; a window touches two regions at the most. */
#define LOX_REGION_SHIFT 6
#define LOX_LOCKS 4096
/* Source ports tried for one flow before it is refused. */
#define LOX_PORT_TRIES 32
/* A dead slot rests this long (jiffies) before it is used again: readers that still hold it are gone by then. */
#define LOX_QUARANTINE 2
/* One-way packets after which a flow without replies counts as established. */
#define LOX_ONE_WAY_PACKETS 8
/* Share of an endpoint that is not starting slowly. */
#define LOX_FULL_SHARE 10
#define LOX_SHARE_SHIFT 4

/* Low byte of lox_flow.word; the rest counts claims, so a reader sees that a slot changed hands. */
enum lox_slot {
	LOX_SLOT_FREE = 0,
	LOX_SLOT_CLAIMED = 1,
	LOX_SLOT_LIVE = 2,
	LOX_SLOT_DEAD = 3,
	LOX_SLOT_MASK = 0xff,
	LOX_SLOT_CLAIM = 0x100,
};

enum lox_flow_flags {
	LOX_FLOW_REPLY = 1,    /* from the endpoint to the client */
	LOX_FLOW_SOURCE = 2,   /* the source is rewritten as well as the destination */
	LOX_FLOW_FIN = 4,      /* this direction has sent a FIN */
	LOX_FLOW_EXTENDED = 8, /* an extension record says more: off the plain path */
	LOX_FLOW_DIRECT = 16,  /* direct server return: only the MACs are rewritten */
	LOX_FLOW_CLOSED = 32,  /* not one of its endpoint's live flows any more */
	LOX_FLOW_ENDED = 64,   /* its endpoint is gone: what still comes is answered by a reset */
};

enum lox_flow_state {
	LOX_STATE_NONE = 0,
	LOX_STATE_SYN_SENT = 1,
	LOX_STATE_SYN_RECEIVED = 2,
	LOX_STATE_ESTABLISHED = 3,
	LOX_STATE_CLOSING = 4,
	LOX_STATE_TIME_WAIT = 5,
	LOX_STATE_RESET = 6,
	LOX_STATE_ONE_WAY = 7,
	LOX_STATE_TWO_WAY = 8,
	LOX_STATES = 9,
};

enum lox_mode { LOX_MODE_DEFAULT = 0, LOX_MODE_ONEARM = 1, LOX_MODE_FULLNAT = 2, LOX_MODE_DSR = 3 };

enum lox_select {
	LOX_SELECT_RR = 0,
	LOX_SELECT_HASH = 1,
	LOX_SELECT_PRIORITY = 2,
	LOX_SELECT_PERSIST = 3,
	LOX_SELECT_LC = 4,
};

/*
 * Why a packet left a program. The reason implies the verdict: up to LOX_PASS_LAST the packet goes on unmodified, up to
 * LOX_FORWARD_LAST it was rewritten and sent, the others were dropped.
 */
enum lox_reason {
	LOX_PASS_NOT_IP = 0,
	LOX_PASS_OTHER_HOST,
	LOX_PASS_MALFORMED,
	LOX_PASS_FRAGMENT,
	LOX_PASS_PROTOCOL,
	LOX_PASS_NOT_SERVICE,
	LOX_PASS_TO_TC,
	LOX_PASS_ICMP_ERROR,
	LOX_PASS_LAST = 15,
	LOX_FORWARD_ESTABLISHED = 16,
	LOX_FORWARD_HALF_OPEN,
	LOX_FORWARD_NEW,
	LOX_FORWARD_RESOLVE,
	LOX_FORWARD_LOCAL,
	LOX_FORWARD_FRAGMENT,
	LOX_FORWARD_ICMP_ERROR,
	LOX_ANSWER_RESET,
	LOX_ANSWER_UNREACHABLE,
	LOX_ANSWER_TOO_BIG,
	LOX_ANSWER_EXPIRED,
	LOX_FORWARD_SOCKET, /* no packet: a socket of this host was directed at an endpoint */
	LOX_FORWARD_LOOPBACK,
	LOX_FORWARD_LAST = 31,
	LOX_DROP_TTL = 32,
	LOX_DROP_NO_ENDPOINT,
	LOX_DROP_NO_SOURCE,
	LOX_DROP_NO_PORT,
	LOX_DROP_TABLE_FULL,
	LOX_DROP_BUSY,
	LOX_DROP_FLOW_MOVED,
	LOX_DROP_NO_ROUTE,
	LOX_DROP_NOT_SYN,
	LOX_DROP_WRITE,
	LOX_DROP_SOURCE,
	LOX_DROP_RST,
	LOX_DROP_FRAGMENT,
	LOX_DROP_RATE,
	LOX_DROP_TOO_BIG,
	LOX_DROP_MARTIAN,
	LOX_DROP_HALF_OPEN,
	LOX_DROP_LOOP,
	LOX_DROP_BLACK_HOLE,
	LOX_REASONS = 56,
};

/* What an address is: of a service or an endpoint; of an endpoint that is this host. */
enum lox_host { LOX_HOST_UNKNOWN = 0, LOX_HOST_KNOWN = 1, LOX_HOST_LOCAL = 2 };

union lox_addr {
	__be32 v4;
	__u32 word[4];
	__u64 half[2];
};

/*
 * Head of a flow slot, alike for both families: one direction of one flow. The addresses follow it, so an IPv4 slot is
 * one cache line of 64 bytes and an IPv6 slot two.
 */
struct lox_flow {
	__u32 word;
	__u32 last; /* of the latest packet; of the death in a dead slot */
	__be16 sport;
	__be16 dport;
	__be16 new_sport;
	__be16 new_dport;
	__u8 proto;
	__u8 flags;
	__u8 state;
	__u8 window_scale; /* with `sequence`: the TCP window of this direction */
	__u16 next_hop;
	__u16 generation; /* next_hop holds while this equals lox_runtime.generation */
	__u64 sequence;
	__u64 packets;
	__u64 bytes;
};

struct lox_flow4 {
	struct lox_flow head;
	__be32 saddr;
	__be32 daddr;
	__be32 new_saddr;
	__be32 new_daddr;
};

/* What the plain path does not need: for IPv4 established flows in an array of its own, at the slot's index. */
struct lox_cold {
	__u32 created;
	__u32 rule;
	__u32 endpoint;
	__u32 extension; /* index of the extension record, 0 without one */
};

struct lox_flow6 {
	struct lox_flow head;
	union lox_addr saddr;
	union lox_addr daddr;
	union lox_addr new_saddr;
	union lox_addr new_daddr;
	struct lox_cold cold;
};

/* An IPv4 flow that is half-open, or found no slot in its window: both halves together. */
struct lox_whole4 {
	struct lox_flow4 flow;
	struct lox_cold cold;
};

/* Keys of the hash maps for flows that found no slot in their window. */
struct lox_key4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u32 proto;
};

struct lox_key6 {
	union lox_addr saddr;
	union lox_addr daddr;
	__be16 sport;
	__be16 dport;
	__u32 proto;
};

/*
 * Value of a listener: its rule, and flags. A packet is looked up without its mark first; only where LISTENER_MARKED says
 * so are there listeners for certain marks, which come before. LISTENER_SECONDARY tells the daemon what was configured.
 */
#define LOX_LISTENER_RULE 0x3fffffffU
#define LOX_LISTENER_SECONDARY 0x40000000U
#define LOX_LISTENER_MARKED 0x80000000U

struct lox_listener4 {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
	__u32 mark;
};

struct lox_listener6 {
	union lox_addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
	__u32 mark;
};

/* The ring, a flat array of endpoint ids, in lines: array elements are rounded up to 8 bytes. */
#define LOX_RING_LINE 16

struct lox_ring_line {
	__u32 endpoint[LOX_RING_LINE];
};

struct lox_rule {
	__u32 ring_base; /* with the length one aligned 64-bit word: swapped in one write */
	__u32 ring_length;
	__u32 timeout; /* jiffies without a packet */
	__u32 persist; /* jiffies without a new flow after which a client is forgotten */
	__u8 mode;
	__u8 select;
	__u8 live;
	__u8 restricted; /* only the sources of lox_source_key may use it */
	__u32 half_open_limit; /* half-open flows at most; 0: no limit */
} __attribute__((aligned(8)));

/* Mutable state of a rule: never written by a change of the rule. */
struct lox_rule_state {
	__u32 position;  /* round robin: flows selected so far */
	__s32 half_open; /* its flows in the half-open tables */
};

/* Mutable state of an endpoint: its live flows, counted for least connections, and those it was ever given. */
struct lox_endpoint_state {
	__u32 active;
	__u32 epoch; /* counts the endpoints that have had this slot: a socket is taken off the count it was added to */
	__u32 opened;
	__u32 pad;
};

/* Which endpoint a client of a rule was given, and when it last opened a flow. */
struct lox_client {
	union lox_addr addr;
	__u32 rule;
	__u32 pad;
};

struct lox_affinity {
	__u32 endpoint;
	__u32 last;
};

/*
 * Kept with a socket of this host that asked for a service (socket storage). While it is connected: which service it
 * asked for and which endpoint it got. `endpoint` is 0 otherwise; a socket that only sends has its peers in lox_errand.
 */
struct lox_local {
	union lox_addr service;
	union lox_addr addr; /* of the endpoint */
	__be16 service_port;
	__be16 port;
	__u32 rule;
	__u32 endpoint;
	__u32 epoch; /* of lox_endpoint_state */
	__u32 family; /* 4 or 6, of the addresses */
	__u32 pad;
};

/* Which endpoint a connected socket has, by the socket's cookie: what the daemon looks through when an endpoint goes. */
struct lox_connected {
	__u32 rule;
	__u32 endpoint;
};

/* A peer of a datagram socket that is not connected: the service it sends to, or the endpoint that answers. */
struct lox_errand_key {
	union lox_addr addr;
	__u64 cookie; /* of the socket */
	__be16 port;
	__u8 family;
	__u8 reply; /* 1: the address is the endpoint's */
	__u32 pad;
};

/* The other one of the two. */
struct lox_errand {
	union lox_addr addr;
	__u32 listener; /* rule of the service that was asked for */
	__u32 rule;     /* the endpoint's: another one where an endpoint is itself a service */
	__u32 endpoint;
	__u32 last;
	__be16 port;
	__u16 pad;
	__u32 pad2;
};

/* Longest prefix match over a rule's allowed sources: `prefix` counts the bits of rule and address. */
struct lox_source_key {
	__u32 prefix;
	__u32 rule;
	union lox_addr addr;
};

enum lox_endpoint_flags {
	LOX_ENDPOINT_LIVE = 1,	   /* its flows go on */
	LOX_ENDPOINT_DRAINING = 2, /* it takes no new flow */
	LOX_ENDPOINT_REMOVED = 4,  /* none of its rule's endpoints any more; kept for its flows */
	LOX_ENDPOINT_TIMED = 8,	   /* ... for a time */
};

struct lox_endpoint {
	union lox_addr addr;
	union lox_addr source; /* what the endpoint sees as the source in the modes that rewrite it; 0: unknown */
	__u32 rule;
	__be16 port;
	__u8 flags; /* from LOX_SHARE_SHIFT on its share of LOX_FULL_SHARE; 0 is the full one */
	__u8 family; /* 4 or 6 */
};

struct lox_traffic {
	__u64 packets;
	__u64 bytes;
};

struct lox_next_hop {
	__u32 word;
	__u32 ifindex;
	__u32 generation;
	__u8 dmac[6];
	__u8 smac[6];
	__u32 peer; /* 1: a veth whose other end is in another network namespace */
	__u32 mtu;  /* largest packet, from the IP header on */
};

/* One entry a network device, indexed by ifindex modulo the size of the map. Addresses are this host's, 0 without one. */
struct lox_link {
	__u32 ifindex;
	__u32 peer;
	union lox_addr addr6;
	__be32 addr4;
	__u32 mtu;
};

/*
 * Fragments behind the first have no ports: the first one leaves them here (RFC 791 section 3.2, RFC 8200 section 4.5).
 */
struct lox_fragment_key {
	union lox_addr saddr;
	union lox_addr daddr;
	__u32 id;
	__u32 proto;
};

struct lox_fragment {
	__be16 sport;
	__be16 dport;
	__u32 first; /* bytes of the first fragment, none of which another one may overwrite */
	__u32 last;
	__u32 pad;
};

/* Token bucket, in jiffies. */
struct lox_bucket {
	__u32 last;
	__u32 tokens;
};

/* Fixed when the programs are loaded. */
struct lox_config {
	__u64 secret[2];
	__u32 flow4_mask;
	__u32 flow6_mask;
	__u32 half4_mask;
	__u32 half6_mask;
	__u32 link_mask;
	__u32 next_hop_mask;
	__u32 rules;
	__u32 endpoints;
	__u32 ring;
	__u32 redirect_peer;
	__u32 complete_checksum; /* XDP: finish partial checksums of veth peers */
	__u32 ipv6_csum_flag;    /* bpf_l4_csum_replace knows BPF_F_IPV6 */
	__u32 kernel_ctx;        /* TC: bpf_cast_to_kern_ctx is there */
	__u32 set_retval;        /* the kernel has bpf_set_retval() */
	__u64 netns;             /* cookie of the network namespace; 0: the kernel has none */
};

/* Shared by the programs and the daemon while running. */
struct lox_runtime {
	__u32 generation; /* of routes and neighbours */
	__u32 purge;      /* raised whenever endpoints were dropped: the ager then ends their flows */
	__u32 overflow4;
	__u32 overflow6;
	__u32 timeout[LOX_STATES]; /* jiffies; 0: the rule's */
	__u32 events;              /* 1: report flows through the ring buffer */
	__u32 pass;                /* passes of the ager so far */
	__u32 live4;
	__u32 live6;
	__u32 half4;
	__u32 half6;
	__u32 icmp_interval; /* jiffies between two ICMP errors to one address; 0: no limit */
	__u32 events_lost;   /* reports of flows that found the ring buffer full */
	__u32 aborts_lost;   /* connections that ended without a report, for want of room */
};

enum lox_event_kind { LOX_EVENT_OPENED = 1, LOX_EVENT_ENDED = 2 };

struct lox_event {
	union lox_addr saddr;
	union lox_addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 family;
	__u8 proto;
	__u8 kind;
	__u8 state;
	__u32 rule;
	__u32 endpoint;
	__u64 packets;
	__u64 bytes;
};

enum lox_at { LOX_AT_XDP = 1, LOX_AT_TC = 2, LOX_AT_EGRESS = 3 };

/* A packet that was dropped, as it was then, for those who watch. */
struct lox_drop {
	__u64 at; /* nanoseconds, CLOCK_MONOTONIC */
	__u32 ifindex;
	__u32 length;   /* of the frame */
	__u16 captured; /* bytes of it in `head` */
	__u8 reason;
	__u8 hook; /* enum lox_at */
	__u8 head[132];
};

/* Ends of an aborted connection that can be told, since what they expect next is known. */
enum lox_tell {
	LOX_TELL_CLIENT = 1,
	LOX_TELL_ENDPOINT = 2,
	LOX_TELL_ACTIVE = 4, /* it was in use just now: they may expect more than was seen of them */
};

/*
 * A TCP connection that was given up while both ends believed in it. The client talks to (vip, vip_port), the endpoint to
 * (source, source_port). `*_expects` is the next sequence number that end expects (RFC 9293 section 3.10.7.1).
 */
struct lox_abort {
	union lox_addr client;
	union lox_addr vip;
	union lox_addr source;
	union lox_addr endpoint;
	__be16 client_port;
	__be16 vip_port;
	__be16 source_port;
	__be16 endpoint_port;
	__u32 client_expects;
	__u32 endpoint_expects;
	__u64 at; /* nanoseconds, CLOCK_MONOTONIC */
	__u32 rule;
	__u8 family;
	__u8 state;
	__u8 tell; /* enum lox_tell */
	__u8 pad;
};

#endif
