#!/usr/bin/python3
"""Pulls an image as the kubelet does: PullImage of Kubernetes' container runtime interface, version 1.

    cri_pull.py SOCKET IMAGE [USER]

The password of USER is taken from the environment, CRI_PASSWORD.

The messages are small enough to be written by hand: PullImageRequest { 1: ImageSpec { 1: string image },
2: AuthConfig { 1: string username, 2: string password } } and PullImageResponse { 1: string image_ref }.
"""

import os
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
    socket, image, *user = sys.argv[1:]
    request = field(1, field(1, image.encode()))
    if user:
        password = os.environ["CRI_PASSWORD"]
        request += field(2, field(1, user[0].encode()) + field(2, password.encode()))
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        pull = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        answer = pull(request, timeout=TIMEOUT_SECONDS)
    print("pulled", answer[2:].decode())


if __name__ == "__main__":
    main()
