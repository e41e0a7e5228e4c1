// Plays a stream from its beginning to its end, with a switch of rendition and a seek on the way; says what it saw.
//
// Each player gives what makes it go to the highest rendition, and what makes it show the first track of text.

const OPEN = {
  async hls(video, url, seen) {
    const hls = new Hls();
    hls.on(Hls.Events.ERROR, (_, data) => data.fatal && seen.errors.push(`${data.type}: ${data.details}`));
    hls.on(Hls.Events.LEVEL_SWITCHED, (_, data) => seen.levels.push(data.level));
    const parsed = new Promise((done) => hls.once(Hls.Events.MANIFEST_PARSED, done));
    hls.loadSource(url);
    hls.attachMedia(video);
    await parsed;
    hls.startLevel = 0;
    hls.currentLevel = 0;
    return [() => { hls.currentLevel = 1; }, () => { hls.subtitleTrack = 0; }];
  },

  async shaka(video, url, seen) {
    shaka.polyfill.installAll();
    const player = new shaka.Player();
    player.addEventListener("error", (event) => seen.errors.push(`${event.detail.code}: ${event.detail.data}`));
    player.addEventListener("variantchanged", (event) => seen.levels.push(event.newTrack.height));
    await player.attach(video);
    const abr = { enabled: false, useNetworkInformation: false, defaultBandwidthEstimate: 1 };
    player.configure({ abr, streaming: { bufferingGoal: 1 } });
    await player.load(url);
    const byHeight = player.getVariantTracks().sort((one, other) => one.height - other.height);
    return [
      () => player.selectVariantTrack(byHeight[byHeight.length - 1], true),
      () => player.selectTextTrack(player.getTextTracks()[0]),
    ];
  },

  async dash(video, url, seen) {
    const player = dashjs.MediaPlayer().create();
    player.on("error", (event) => seen.errors.push(`${event.error.code}: ${event.error.message}`));
    player.on("qualityChangeRendered", (event) => event.mediaType === "video" && seen.levels.push(event.newRepresentation.height));
    const ready = new Promise((done) => player.on("streamInitialized", done));
    const abr = { autoSwitchBitrate: { video: false }, initialBitrate: { video: 1 } };
    player.updateSettings({ streaming: { abr, buffer: { bufferTimeDefault: 1, bufferTimeAtTopQuality: 1 } } });
    player.initialize(video, url, false);
    await ready;
    const byHeight = player.getRepresentationsByType("video").sort((one, other) => one.height - other.height);
    player.setRepresentationForTypeById("video", byHeight[0].id, true);
    return [
      () => player.setRepresentationForTypeById("video", byHeight[byHeight.length - 1].id, true),
      () => player.setTextTrack(0),
    ];
  },
};

const until = (video, event, holds) =>
  new Promise((done) => {
    const look = () => holds() && (video.removeEventListener(event, look), done());
    video.addEventListener(event, look);
    look();
  });

function read(video, cues) {
  video.textTracks.addEventListener("addtrack", ({ track }) =>
    track.addEventListener("cuechange", () => {
      if (track.mode === "showing") cues.push(...Array.from(track.activeCues, (cue) => cue.text));
    }));
}

async function run(kind, url, wanted) {
  const seen = { levels: [], errors: [], cues: [] };
  const video = document.body.appendChild(document.createElement("video"));
  video.muted = true;
  read(video, seen.cues);
  const give_up = new Promise((done) => setTimeout(done, wanted.seconds * 1000, "too slow"));
  const playing = (async () => {
    const [higher, captioned] = await OPEN[kind](video, url, seen);
    if (wanted.text) captioned();
    await video.play();
    video.playbackRate = wanted.rate;
    await until(video, "timeupdate", () => video.currentTime > 0.5);
    seen.first = [video.videoWidth, video.videoHeight];
    higher();
    if (wanted.told) {
      await until(video, "timeupdate", () => video.currentTime > wanted.told);
      await fetch("/reached", { method: "POST" });
    }
    await until(video, "timeupdate", () => video.videoWidth > seen.first[0]);
    if (wanted.text) await until(video, "timeupdate", () => seen.cues.length > 0);
    if (wanted.seek !== undefined) {
      video.currentTime = wanted.seek;
      await until(video, "seeked", () => !video.seeking);
    }
    await until(video, "ended", () => video.ended);
  })().catch((error) => seen.errors.push(String(error)));
  seen.late = await Promise.race([playing, give_up]);
  const gaps = [];
  for (let index = 0; index < video.buffered.length; index += 1) gaps.push([video.buffered.start(index), video.buffered.end(index)]);
  return {
    ...seen,
    ended: video.ended,
    size: [video.videoWidth, video.videoHeight],
    duration: video.duration,
    time: video.currentTime,
    sound: video.webkitAudioDecodedByteCount,
    frames: video.getVideoPlaybackQuality().totalVideoFrames,
    buffered: gaps,
  };
}
