# SPDX-License-Identifier: Apache-2.0
"""Answers of the original REST API, as recorded: the texts that the wire schema has to give."""

from typing import NamedTuple

ENDPOINT = '{"endpointIP":"31.31.31.1","targetPort":8080,"weight":1}'


class Recorded(NamedTuple):
    """One request body and its answer."""

    body: str
    status: int
    answer: str


def entry(arguments: str, endpoints: str = ENDPOINT) -> str:
    """Build a request body from the members of ``serviceArguments`` behind the address."""
    return f'{{"serviceArguments":{{"externalIP":{arguments}}},"endpoints":[{endpoints}]}}'


def _unparsable(reason: str) -> str:
    return f'{{"code":400,"message":"parsing attr body from \\"\\" failed, because {reason}"}}'


def _malformed(text: str) -> str:
    return f'{{"code":400,"fields":null,"message":"Malformed arguments for API call","result":"{text}"}}\n'


_NESTED = "serviceArguments.serviceArguments"

SCHEMA = (
    Recorded("", 422, '{"code":602,"message":"attr in body is required"}'),
    Recorded("{", 400, _unparsable("unexpected EOF")),
    Recorded("[]", 400, _unparsable("json: cannot unmarshal array into Go value of type models.LoadbalanceEntry")),
    Recorded("{}", 422, '{"code":602,"message":"endpoints in body is required"}'),
    Recorded(
        entry('"20.20.20.21","port":80,"protocol":"tcp","sel":9'),
        422,
        f'{{"code":606,"message":"{_NESTED}.sel in body should be one of [0 1 2 3 4 5 6]"}}',
    ),
    Recorded(
        entry('"20.20.20.21","port":"x","protocol":"tcp"'),
        400,
        _unparsable(
            "json: cannot unmarshal string into Go struct field "
            "LoadbalanceEntryServiceArguments.serviceArguments.port of type int64"
        ),
    ),
    Recorded(
        entry('"20.20.20.21","port":80,"protocol":"bogus"'),
        422,
        f'{{"code":606,"message":"{_NESTED}.protocol in body should be one of [tcp udp sctp icmp]"}}',
    ),
    Recorded(
        entry('"20.20.20.22","port":81,"protocol":"tcp","mode":9'),
        422,
        f'{{"code":606,"message":"{_NESTED}.mode in body should be one of [0 1 2 3 4 5]"}}',
    ),
    Recorded(f'{{"endpoints":[{ENDPOINT}]}}', 422, '{"code":602,"message":"serviceArguments in body is required"}'),
)
"""Bodies that break the schema; these answers end without a newline."""

MEANING = (
    Recorded(entry('"nope","port":80,"protocol":"tcp"'), 400, _malformed("malformed-service error")),
    Recorded(entry('"20.20.20.21","port":80,"protocol":"tcp"', ""), 400, _malformed("endpoints-range error")),
    Recorded(
        entry('"20.20.20.21","port":80,"protocol":"tcp","inactiveTimeOut":90000'),
        400,
        _malformed("service-args error"),
    ),
    Recorded(entry('"20.20.20.21","port":80,"protocol":"icmp"'), 400, _malformed("malformed-service error")),
    Recorded(
        entry('"20.20.20.21","port":80,"protocol":"tcp"', '{"endpointIP":"4ffe::1","targetPort":80,"weight":1}'),
        400,
        _malformed("malformed-service nat46 error"),
    ),
    Recorded(
        entry('"20.20.20.23","port":80,"protocol":"tcp"', '{"endpointIP":"nope","targetPort":80,"weight":1}'),
        400,
        _malformed("malformed-lbep error"),
    ),
    # The original truncates the number and succeeds.
    Recorded(entry('"20.20.20.21","port":70000,"protocol":"tcp"'), 400, _malformed("serv-port-args range error")),
    # The original answers 200 with this text.
    Recorded(
        entry('"20.20.20.21","port":8080,"protocol":"tcp","mode":3'),
        400,
        _malformed("Error: Only Hash Selection criteria allowed for DSR mode"),
    ),
)
"""Bodies that keep the schema and ask for what cannot be."""

RULES = (
    '{"lbAttr":[{"allowedSources":null,"endpoints":['
    '{"counter":"6:231","endpointIP":"31.31.31.1","state":"active","targetPort":8080,"weight":1},'
    '{"counter":"11:423","endpointIP":"32.32.32.1","state":"active","targetPort":8080,"weight":1},'
    '{"counter":"0:0","endpointIP":"33.33.33.1","state":"active","targetPort":8080,"weight":1}],'
    '"secondaryIPs":null,"serviceArguments":'
    '{"externalIP":"20.20.20.1","inactiveTimeOut":240,"port":2020,"protocol":"tcp"}}]}\n'
)
FLOWS = (
    '{"ctAttr":['
    '{"bytes":181,"conntrackAct":"dnat-31.31.31.1:8080:w0","conntrackState":"est","destinationIP":"20.20.20.1",'
    '"destinationPort":2020,"ident":"0:0","packets":4,"protocol":"tcp","sourceIP":"10.10.10.1",'
    '"sourcePort":37128},'
    '{"bytes":221,"conntrackAct":"dnat-4ffe::1:8080:w0","conntrackState":"est","destinationIP":"2001::1",'
    '"destinationPort":2020,"ident":"0:0","packets":4,"protocol":"tcp","sourceIP":"3ff0::1",'
    '"sourcePort":44530},'
    '{"bytes":152,"conntrackAct":"fsnat-20.20.20.5,10.10.10.1:2020:w0","conntrackState":"est",'
    '"destinationIP":"31.31.31.254","destinationPort":50794,"ident":"0:0","packets":3,"protocol":"tcp",'
    '"sourceIP":"31.31.31.1","sourcePort":8080},'
    '{"bytes":150,"conntrackAct":"fsnat-20.20.20.6,10.10.10.1:2020:w0","conntrackState":"est",'
    '"destinationIP":"20.20.20.6","destinationPort":53256,"ident":"0:0","packets":3,"protocol":"tcp",'
    '"sourceIP":"31.31.31.1","sourcePort":8080}]}\n'
)
PORTS = (
    '{"portAttr":[{"portHardwareInformation":{"link":true,"macAddress":"8a:c6:b2:77:8c:d4","mtu":1500,'
    '"rawMacAddress":[138,198,178,119,140,212],"state":true},"portL2Information":{"isPvid":true,"vid":3803},'
    '"portL3Information":{"IPv4Address":["11.10.10.254/24 (P) "],"IPv6Address":["3ff1::2/64 (P) "],'
    '"routed":true},"portName":"elbh2","portNo":3,"portSoftwareInformation":{"bpfLoaded":true,"osId":3,'
    '"portActive":true,"portType":1},"portStatisticInformation":{},"zone":"root"}]}\n'
)
VERSION = '{"buildInfo":"2026_11_22_03h:40m:25-local","version":"0.9.8-dev"}\n'
PARAMS = '{"logLevel":"debug"}\n'
