"""`GET /v1/models`: everything that `model` may say."""

import asyncio
from typing import Any

from fastapi import APIRouter

from adapters.errors import InvalidRequest
from adapters.records import Version
from service.catalog import Catalog
from service.schemas.adapters import WireDeleted, model_card
from service.state import State

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(state: State) -> dict[str, Any]:
    """Base models, adapters with a live version, and every version by both of its names. None that is quarantined."""
    await state.catalog.refresh()
    return {"object": "list", "data": _cards(state.catalog)}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, state: State) -> dict[str, Any]:
    """One of them."""
    target = await state.catalog.resolve(model)
    if target.version is None:
        return model_card(model, created=0)
    return model_card(model, created=target.version.created_at, parent=target.base_model)


@router.delete("/v1/models/{model:path}")
async def delete(model: str, state: State) -> WireDeleted:
    """Delete what the name means: a version, and with an adapter's only version or its bare name, the adapter."""
    target = await state.catalog.find(model)
    registry = state.ledger.registry
    if target.version is None:
        raise InvalidRequest(
            f"'{model}' is a base model. It is taken out of the configuration, not deleted.",
            param="model",
        )
    if not isinstance(target.version, Version):
        raise InvalidRequest(
            f"'{model}' is a checkpoint. It goes away with its job's version.", param="model"
        )
    if model == target.version.adapter:
        await asyncio.to_thread(registry.delete, model)
    else:
        await asyncio.to_thread(registry.delete_model, target.version)
    await state.catalog.refresh()
    return WireDeleted(id=model, object="model", deleted=True)


def _cards(catalog: Catalog) -> list[dict[str, Any]]:
    cards = [model_card(model_id, created=0) for model_id in catalog.base_models]
    for adapter in catalog.adapters:
        if adapter.live is not None and adapter.live.quarantined is None:
            cards.append(
                model_card(adapter.name, created=adapter.live.created_at, parent=adapter.base_model)
            )
        cards += [
            model_card(name, created=version.created_at, parent=adapter.base_model)
            for version in adapter.versions
            if version.quarantined is None
            for name in (version.name, version.fine_tuned_name)
            if name is not None
        ]
    return cards
