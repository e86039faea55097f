"""Looking before one leaps: requests that could be jobs, looked at and not kept."""

from fastapi import APIRouter, Request

from adapters.errors import InvalidDataset
from service.schemas.looking import WireEstimate, WirePreview, WireReport, unreadable_report
from service.state import State
from service.uploads import read_finetune_request

router = APIRouter(tags=["fine-tuning"])


@router.post("/datasets/validate")
@router.post("/v1/datasets/validate", include_in_schema=False)
async def validate(request: Request, state: State) -> WireReport:
    """Check data as `POST /finetune` would, and say what is in it. The answer is 200 whatever the rows are."""
    try:
        async with read_finetune_request(request, state.incoming) as asked:
            return await state.lookout.validate(asked)
    except InvalidDataset as error:  # from reading: rows of a JSON body that are no objects
        return unreadable_report(error.details or [])


@router.post("/v1/fine_tuning/estimate")
async def estimate(request: Request, state: State) -> WireEstimate:
    """What a job would come to: steps, tokens, time, memory. `dry_run` of `POST /finetune` answers the same."""
    async with read_finetune_request(request, state.incoming) as asked:
        return await state.lookout.estimate(asked)


@router.post("/v1/fine_tuning/preview")
async def preview(request: Request, state: State) -> WirePreview:
    """The first rows, token by token, with what counts in the loss: what training will see."""
    async with read_finetune_request(request, state.incoming, beside=("n",)) as asked:
        return await state.lookout.preview(asked)
