# SPDX-License-Identifier: Apache-2.0
"""Services as they are stored: the text of the request that creates each.

There may be very many services, and most differ in nothing more than their keys and endpoints. So a text is put
together of parts that are encoded once for all who have them: the arguments that services share, and each endpoint. The
request is the one that ``loxilb.codec.rules.body_of`` returns, its members in another order.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import field, json, structs

from loxiapi.wire import Wire
from loxilb.codec.rules import CACHED, endpoint_body, lists_of, shared_arguments
from loxilb.model import Endpoint, L4Protocol, Service, ServiceKey

_encode = json.Encoder().encode


class _Own(Wire, kw_only=True, frozen=True):
    """The arguments that tell services apart: some of ``loxiapi.wire.ServiceArguments``."""

    external_ip: str = field(name="externalIP")
    port: int
    port_max: int = field(name="portMax", default=0)
    block: int = 0
    name: str = ""
    host: str = ""


_OWN = tuple(one.encode_name for one in structs.fields(_Own))
_SHARED = slice(1 + [one.name for one in structs.fields(Service)].index("name"), None)
_WORDS = {protocol: protocol.value for protocol in L4Protocol}  # members of an Enum are slow to ask


def documents_of(services: Mapping[ServiceKey, Service | None]) -> dict[str, str | None]:
    """Return the request that creates each service, by a name that no other has; None for one that is deleted."""
    # Many services share the object of their address, and the hash of an address is slow.
    objects = {id(key.address): key.address for key in services}
    texts = {number: str(address) for number, address in objects.items()}
    found: dict[str, str | None] = {}
    for key, service in services.items():
        address = texts[id(key.address)]
        name = f"{address} {_WORDS[key.protocol]} {key.port}-{key.port_max} {key.block} {key.host}"
        found[name] = _document(service, address) if service else None
    return found


def _document(service: Service, address: str) -> str:
    key = service.key
    own = _Own(
        external_ip=address,
        port=key.port,
        port_max=key.port_max if key.port_max != key.port else 0,
        block=key.block,
        name=service.name,
        host=key.host,
    )
    shared = _shared(key.protocol, structs.astuple(service)[_SHARED])
    endpoints = ",".join(map(_endpoint, service.endpoints))
    return f'{{"serviceArguments":{_text(own)[:-1]},{shared},"endpoints":[{endpoints}]}}'


@lru_cache(maxsize=1 << 10)
def _shared(protocol: L4Protocol, values: tuple[Any, ...]) -> str:
    """Encode what is declared after the name of a service: the rest of its arguments to their end, then its lists."""
    *terms, secondary, sources = values
    arguments = json.decode(_text(shared_arguments(protocol, *terms)))
    rest = {name: value for name, value in arguments.items() if name not in _OWN}
    further, allowed = lists_of(secondary, sources)
    lists = {name: one for name, one in (("secondaryIPs", further), ("allowedSources", allowed)) if one}
    return ",".join(filter(None, (_text(rest)[1:], _text(lists)[1:-1])))


@lru_cache(maxsize=CACHED)
def _endpoint(one: Endpoint) -> str:
    return _text(endpoint_body(one))


def _text(value: object) -> str:
    return _encode(value).decode()
