# SPDX-License-Identifier: Apache-2.0
"""A guest that answers HTTP: what it is sent, in capitals."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


def read(request: IncomingRequest) -> bytes:
    body, pieces = request.consume(), []
    with body.stream() as stream:
        try:
            while True:
                pieces.append(stream.blocking_read(4096))
        except Err as e:
            if not isinstance(e.value, StreamError_Closed):
                raise
    IncomingBody.finish(body)
    return b"".join(pieces)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam):
        text = b"Python " + request.path_with_query().encode() + b" " + read(request).upper()
        response = OutgoingResponse(Fields.from_list([("content-length", str(len(text)).encode())]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as out:
            out.blocking_write_and_flush(text)
        OutgoingBody.finish(body, None)
