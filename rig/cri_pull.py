#!/usr/bin/python3
"""Pulls an image as the kubelet does: PullImage of Kubernetes' container runtime interface, version 1.

    cri_pull.py SOCKET IMAGE

The two messages are small enough to be written by hand: PullImageRequest { 1: ImageSpec { 1: string image } } and
PullImageResponse { 1: string image_ref }.
"""

import sys

import grpc

TIMEOUT_SECONDS = 300


def field(number, value):
    """A length-delimited field of a protobuf message, for numbers up to 15."""
    size, length = len(value), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + value


def main():
    socket, image = sys.argv[1:]
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        answer = pull(field(1, field(1, image.encode())), timeout=TIMEOUT_SECONDS)
    print("pulled", answer[2:].decode())


if __name__ == "__main__":
    main()
