"""A web service: requests that come together share a forward pass.

python examples/service.py [--bundle bundles/model] [--precision fp32] [--host 127.0.0.1] [--port 8000]

    GET  /health                          which model, and how many texts wait
    POST /classify  {"texts": ["…"]}      intents and probabilities of each text
    POST /read      {"document": "…"}     the same for each sentence, with character offsets
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

import communique
from communique import Classifier, Statement

MAX_TEXTS = 64  # in one request
MAX_CHARACTERS = 5_000  # of one text
MAX_DOCUMENT = 100_000  # characters of a document
MAX_BODY = 2 * 1024 * 1024  # bytes of a request
MAX_WAITING = 1_024  # texts; further requests are turned away until there is room
BATCH = 128  # texts that share a pass


class Texts(BaseModel):
    """The body of /classify."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Annotated[str, Field(max_length=MAX_CHARACTERS)]] = Field(min_length=1, max_length=MAX_TEXTS)


class Document(BaseModel):
    """The body of /read."""

    model_config = ConfigDict(extra="forbid")
    document: str = Field(max_length=MAX_DOCUMENT)


class FullError(Exception):
    """More texts wait than the service takes on."""


class Batcher:
    """One worker thread for the model. What arrives while it is busy is classified together next.

    Nothing waits for a batch to fill: a request that comes alone is answered at once.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.waiting = 0
        self._requests: list[tuple[list[str], asyncio.Future[list[Statement]]]] = []
        self._draining: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(max_workers=1)

    async def classify(self, texts: list[str]) -> list[Statement]:
        """The statements of one request, in its order.

        Raises:
            FullError: too many texts wait.
        """
        self._admit(len(texts))
        answer: asyncio.Future[list[Statement]] = asyncio.get_running_loop().create_future()
        self._requests.append((texts, answer))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        return await answer

    async def read(self, document: str) -> list[Statement]:
        """A document's statements; it has the worker for itself.

        Raises:
            FullError: too many texts wait.
        """
        size = 1 + len(document) // 100  # about its sentences
        self._admit(size)
        try:
            return await self._run(self.classifier.read, document)
        finally:
            self.waiting -= size

    def _admit(self, texts: int) -> None:
        if self.waiting + texts > MAX_WAITING:
            raise FullError
        self.waiting += texts

    async def _drain(self) -> None:
        while self._requests:
            batch = self._next()
            try:
                statements = await self._run(self.classifier, [text for texts, _ in batch for text in texts])
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            finally:
                self.waiting -= sum(len(texts) for texts, _ in batch)
            remaining = iter(statements)
            for texts, answer in batch:
                own = [next(remaining) for _ in texts]
                if not answer.done():  # its client may have gone
                    answer.set_result(own)

    def _next(self) -> list[tuple[list[str], asyncio.Future[list[Statement]]]]:
        """The oldest request, and those after it that fit into a pass with it."""
        batch = [self._requests.pop(0)]
        size = len(batch[0][0])
        while self._requests and size + len(self._requests[0][0]) <= BATCH:
            batch.append(self._requests.pop(0))
            size += len(batch[-1][0])
        return batch

    async def _run(self, function: Callable[[Any], list[Statement]], argument: object) -> list[Statement]:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, argument)

    def close(self) -> None:
        """Lets the worker finish what it has begun."""
        self._worker.shutdown(cancel_futures=True)


def create(classifier: Classifier) -> FastAPI:
    """The application around a loaded classifier."""
    batcher = Batcher(classifier)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    # the interactive pages would load their scripts from another host; /openapi.json stays
    app = FastAPI(title="communique", version=communique.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method == "POST":
            length = request.headers.get("content-length")
            if length is None:
                return _problem(411, "expected a Content-Length header, found none.")
            if int(length) > MAX_BODY:  # the server has checked that it is a number, and holds the body to it
                return _problem(413, f"expected at most {MAX_BODY} bytes, found {length}; send it in parts.")
        return await call_next(request)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        # where and what, without the text itself, which may be long or private
        return _problem(422, "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()))

    @app.exception_handler(FullError)
    async def turn_away(_: Request, error: FullError) -> Response:
        return _problem(503, f"{MAX_WAITING} texts wait already; try again in a second.", {"Retry-After": "1"})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        manifest = classifier.manifest
        return {
            "status": "ok",
            "model": f"{manifest.name} {manifest.version}",
            "labels": list(classifier.classes_),
            "waiting": batcher.waiting,
        }

    @app.post("/classify")
    async def classify(body: Texts) -> dict[str, Any]:
        return {"statements": _answers(await batcher.classify(body.texts))}

    @app.post("/read")
    async def read(body: Document) -> dict[str, Any]:
        statements = await batcher.read(body.document)
        offsets = ({"start": statement.start, "end": statement.end} for statement in statements)
        return {"statements": [answer | place for answer, place in zip(_answers(statements), offsets, strict=True)]}

    return app


def _answers(statements: Sequence[Statement]) -> list[dict[str, Any]]:
    """What is sent; the texts are the client's already."""
    return [
        {"intents": list(one.intents), "probabilities": one.probabilities, "confidence": one.confidence}
        for one in statements
    ]


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def main() -> int:
    """Loads the model and serves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="a bundle's folder; default: the model in the installed wheel")
    parser.add_argument(
        "--precision",
        choices=("int8", "fp32"),
        help="default: what the bundle recommends",
    )
    parser.add_argument("--host", default="127.0.0.1", help="there is no login: keep it on loopback or behind a proxy")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    try:
        classifier = communique.load(asked.bundle, precision=asked.precision)
    except communique.CommuniqueError as error:
        print(error, file=sys.stderr)
        return 2
    uvicorn.run(create(classifier), host=asked.host, port=asked.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
