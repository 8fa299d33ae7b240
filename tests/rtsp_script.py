"""An RTSP server of GStreamer, under the system's Python (`gi` is in no virtual environment). See rtsp_server.py.

Arguments: one JSON object. Prints `port N` once it listens. A line `size W H` on standard input changes the size in
mid-stream; `noise 0|1` and `black 0|1` change the picture; the end of standard input ends the server.
"""

import json
import random
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ENCODERS = {
    # Several slices a picture forbid config-interval=-1, which puts parameter sets before every slice of a keyframe:
    # by H.264 7.4.1.2.3 those begin a new picture, and the keyframe would come apart.
    "h264": "x264enc speed-preset=ultrafast key-int-max={k} bframes={b} {low} bitrate=1500"
    " option-string=scenecut=0:sliced-threads=0:slices={slices}"
    " ! video/x-h264,profile={profile} ! rtph264pay name=pay0 pt=96 config-interval={headers}",
    "h265": "x265enc speed-preset=ultrafast key-int-max={k} tune=zerolatency bitrate=1500 log-level=0"
    " ! rtph265pay name=pay0 pt=96 config-interval=-1",
    "mjpeg": "jpegenc quality=90 ! rtpjpegpay name=pay0 pt=26",
}
BITS = 16


class Picture:
    """Grey frames: the upper quarter holds the frame's number in 16 blocks, the rest a texture that scrolls."""

    def __init__(self, size):
        self.resize(size)
        self.noise, self.black = False, False

    def resize(self, size):
        self.width, self.height = size
        self.band = self.height // 4
        chance = random.Random(1)
        rows = []
        for _ in range(self.height // 4):
            row = b"".join(bytes([chance.randrange(40, 216)]) * 16 for _ in range(self.width // 16 + 1))
            rows.append(row[: self.width] * 8)
        self.texture = b"".join(rows)

    def draw(self, number):
        if self.black:
            return bytes(self.width * self.height)
        block = self.width // BITS
        bits = b"".join((b"\xf0" if number >> i & 1 else b"\x10") * block for i in range(BITS))
        bits += b"\x10" * (self.width - len(bits))
        start = number % self.height * self.width
        rest = self.texture[start : start + self.width * (self.height - self.band)]
        if self.noise:
            rest = random.Random(number).randbytes(len(rest))
        return bits * self.band + rest


class Factory(GstRtspServer.RTSPMediaFactory):
    """One shared medium: all clients see the same frames."""

    def __init__(self, options):
        super().__init__()
        self.options = options
        self.number = 0
        self.picture = Picture(options["size"])
        self.sources = []
        self.set_shared(True)

    def caps(self):
        return Gst.Caps.from_string(
            f"video/x-raw,format=GRAY8,width={self.picture.width},height={self.picture.height},"
            f"framerate={self.options['fps']}/1"
        )

    def do_create_element(self, url):
        b = self.options["b_frames"]
        encoder = ENCODERS[self.options["codec"]].format(
            k=self.options["keyframe_every"],
            b=b,
            slices=self.options["slices"],
            headers=-1 if self.options["slices"] == 1 else 1,
            low="" if b else "tune=zerolatency",
            profile="main" if b else "constrained-baseline",
        )
        if self.options["rtp_start"] is not None:
            encoder += f" timestamp-offset={self.options['rtp_start']}"
        audio = (
            " audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay1 pt=8"
            if self.options["audio"]
            else ""
        )
        return Gst.parse_launch(
            "( appsrc name=source is-live=true block=true format=time ! videoconvert ! video/x-raw,format=I420"
            f" ! {encoder}{audio} )"
        )

    def do_configure(self, media):
        # The method that this one replaces would have done so.
        media.set_shared(True)
        source = media.get_element().get_child_by_name("source")
        source.set_property("caps", self.caps())
        state = {"first": self.number, "size": (self.picture.width, self.picture.height)}
        source.connect("need-data", self.need_data, state)

    def need_data(self, source, _length, state):
        size = (self.picture.width, self.picture.height)
        if size != state["size"]:
            state["size"] = size
            source.set_property("caps", self.caps())
        buffer = Gst.Buffer.new_wrapped(self.picture.draw(self.number & 0xFFFF))
        buffer.duration = Gst.SECOND // self.options["fps"]
        buffer.pts = buffer.dts = (self.number - state["first"]) * Gst.SECOND // self.options["fps"]
        self.number += 1
        source.emit("push-buffer", buffer)


def listen(picture, loop):
    for line in sys.stdin:
        name, *values = line.split()
        if name == "size":
            picture.resize([int(value) for value in values])
        else:
            setattr(picture, name, values[0] == "1")
    loop.quit()


def main():
    options = json.loads(sys.argv[1])
    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options["port"]))
    factory = Factory(options)
    if options["password"]:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options["user"], options["password"]), token)
        server.set_auth(auth)
        factory.add_role_from_structure(
            Gst.Structure.from_string("user, media.factory.access=true, media.factory.construct=true")[0]
        )
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {options['port']} cannot be had")
    print("port", server.get_bound_port(), flush=True)
    threading.Thread(target=listen, args=(factory.picture, loop), daemon=True).start()
    loop.run()


main()
