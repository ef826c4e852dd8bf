"""Whether a place on the hub, to which a tracker copies its records, is private."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HubPlace:
    """A place of a tracker's records.

    Attributes:
        name: `owner/name`, or a name of the account that is logged in; None for a place that does not exist yet.
        kind: a Space shows the records, a bucket holds them.
        flag: the setting that sends the records there.
    """

    name: str | None
    kind: Literal["space", "bucket"]
    flag: str


def first_not_private(places: list[HubPlace], *, made_private: bool) -> HubPlace | None:
    """Return the first place that is public or may become so, or of which the hub does not say that it is private.

    Args:
        made_private: whether a place that does not exist yet is made as a private one. This changes no place that
            exists.
    """
    return next((place for place in places if not _is_private(place, made_private)), None)


def _is_private(place: HubPlace, made_private: bool) -> bool:
    if place.name is None:
        return made_private
    import huggingface_hub
    from huggingface_hub import errors

    try:
        name = place.name if "/" in place.name else f"{huggingface_hub.whoami()['name']}/{place.name}"
        if place.kind == "space":
            return huggingface_hub.repo_info(name, repo_type="space").private is True
        return huggingface_hub.bucket_info(name).private is True
    except (errors.RepositoryNotFoundError, errors.BucketNotFoundError):
        return made_private
    except Exception:  # no network, offline mode, a refused login: then nobody knows
        return False
