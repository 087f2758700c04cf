// The page of a scan: NiiVue, whose module stands above, draws; this ties it to the list and the controls.
(async () => {
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const rows = all("#marks tbody tr");
  const presets = all("[data-low]");
  const colors = { candidate: "#56b4e9", hit: "#56b4e9", again: "#56b4e9", false: "#e8743b", missed: "#f0e442" };
  const HU_PER_PIXEL = 2;
  const nv = new Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    dragMode: DRAG_MODE.none,
    invertScrollDirection: true, // down goes to the feet, the back, the left
    dragAndDropEnabled: false,
    atlasOutline: 1,
    isOrientationTextVisible: false, // the page's own stand at the edges
    crosshairColor: [0.85, 0.35, 0, 1],
    crosshairWidthUnit: "mm",
    crosshairGap: 8,
    logLevel: "error",
  });

  // Base64 of gzip, as the page holds its volumes; the text goes, since the browser would keep it beside the volume.
  async function unpacked(kind) {
    const element = byId(`volume-${kind}`);
    const text = atob(element.textContent);
    element.remove();
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  const kinds = ["candidate", "fracture"].filter((kind) => byId(`volume-${kind}`));
  const ribNames = byId("ribs") ? JSON.parse(byId("ribs").dataset.names) : {}; // by their ids
  const overlays = {}; // volumes of ids by their kind
  const marked = {}; // of each the voxels that are not background, and their ids

  // NiiVue draws each plane where the page has a frame with its letters.
  function arrange() {
    const chosen = byId("planes").value;
    byId("frames").dataset.planes = chosen;
    const whole = byId("frames").getBoundingClientRect();
    const tiles = all(".frame").filter((frame) => frame.checkVisibility()).map((frame) => {
      const { left, top, width, height } = frame.getBoundingClientRect();
      const position = [(left - whole.left) / whole.width, (top - whole.top) / whole.height];
      return {
        sliceType: SLICE_TYPE[frame.dataset.plane.toUpperCase()],
        position: [...position, width / whole.width, height / whole.height],
      };
    });
    nv.setCustomLayout(tiles);
  }

  // All volumes before the first picture: NiiVue blends them anew with each that comes.
  async function load() {
    await nv.attachToCanvas(byId("canvas"));
    arrange();
    const { low, high } = presets[0].dataset;
    const image = await volume("image", { colormap: "gray", cal_min: Number(low), cal_max: Number(high) });
    for (const kind of kinds) {
      const { img } = overlays[kind] = await volume(kind, {});
      const voxels = [];
      for (let voxel = 0; voxel < img.length; voxel += 1) if (img[voxel]) voxels.push(voxel);
      marked[kind] = { voxels, ids: voxels.map((voxel) => img[voxel]) };
      overlays[kind].setColormapLabel(colormap(kind));
    }
    nv.volumes = [image, ...kinds.map((kind) => overlays[kind])];
    choose();
    nv.setVolume(image, 0);
  }

  async function volume(kind, options) {
    const name = `${kind}.nii`;
    return NVImage.loadFromUrl({ name, url: name, buffer: await unpacked(kind), ...options });
  }

  function colormap(kind) {
    const shown = [{ id: 0, color: "#000000" }];
    for (const row of rows.filter((row) => row.dataset.kind === kind)) {
      const color = kind === "fracture" ? colors.missed : colors[row.dataset.outcome];
      shown.push({ id: Number(row.dataset.id), color });
    }
    const part = (from) => shown.map(({ color }) => parseInt(color.slice(from, from + 2), 16));
    const A = shown.map(({ id }) => (id ? 255 : 0));
    return { R: part(1), G: part(3), B: part(5), A, I: shown.map(({ id }) => id) };
  }

  // Both ribs of a number have one color, and neighbors have hues far apart; those without a number are gray.
  function ribColors() {
    const shown = Object.entries(ribNames).map(([id, name]) => [Number(id), Number(name.split(" ")[1])]);
    const rgb = shown.map(([, number]) => [0, 8, 4].map((n) => {
      const saturation = Number.isNaN(number) ? 0 : 0.35;
      const k = (n + (number || 0) * 5) % 12;
      return Math.round(255 * (0.6 - saturation * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    }));
    const part = (channel) => [0, ...rgb.map((color) => color[channel])];
    return { R: part(0), G: part(1), B: part(2), A: [0, ...shown.map(() => 255)], I: [0, ...shown.map(([id]) => id)] };
  }

  // Ribs are unpacked when they are first asked for, since most readers look at candidates alone.
  async function showRibs() {
    if (!overlays.rib) {
      overlays.rib = await volume("rib", {});
      overlays.rib.setColormapLabel(ribColors());
    }
    const [image] = nv.volumes;
    const shown = byId("ribs").checked ? ["rib", ...kinds] : kinds; // candidates lie over the ribs
    nv.volumes = [image, ...shown.map((kind) => overlays[kind])];
    choose();
    nv.setVolume(image, 0);
    nv.createOnLocationChange();
  }

  // The rib at a place, as shares of the volume; nothing while the ribs are off.
  function ribAt(place) {
    if (!overlays.rib || !byId("ribs").checked || !(place[0] >= 0)) return "";
    return ribNames[overlays.rib.getValue(...nv.frac2vox(place))] ?? "";
  }

  function nameRib(event) {
    const box = byId("canvas").getBoundingClientRect();
    const at = [event.clientX - box.left, event.clientY - box.top];
    const name = event.buttons ? "" : ribAt(nv.canvasPos2frac(at.map((pixel) => pixel * nv.uiData.dpr)));
    const label = byId("rib-name");
    label.hidden = name === "";
    label.textContent = name;
    [label.style.left, label.style.top] = at.map((pixel) => `${pixel + 14}px`);
  }

  // Lists candidates from the threshold on, and marks what is listed. NiiVue outlines what has no color, too: so what is
  // not shown becomes background.
  function choose() {
    const threshold = Number(byId("threshold").value);
    for (const row of rows) row.hidden = row.dataset.score !== undefined && Number(row.dataset.score) < threshold;
    byId("nothing").hidden = rows.some((row) => !row.hidden);
    for (const kind of kinds) {
      const listed = rows.filter((row) => row.dataset.kind === kind && !row.hidden);
      const shown = new Set(byId("mask").checked ? listed.map((row) => Number(row.dataset.id)) : []);
      const { voxels, ids } = marked[kind];
      voxels.forEach((voxel, at) => { overlays[kind].img[voxel] = shown.has(ids[at]) ? ids[at] : 0; });
      overlays[kind].opacity = Number(byId("opacity").value);
    }
    if (overlays.rib) overlays.rib.opacity = Number(byId("opacity").value);
  }

  function change() {
    choose();
    nv.updateGLVolume();
    nv.createOnLocationChange();
  }

  const rounded = (value) => String(Math.round(value)).replace("-", "−");

  function showWindow() {
    const { cal_min: low, cal_max: high } = nv.volumes[0];
    byId("window").textContent = `${rounded(low)} to ${rounded(high)} HU`;
    for (const button of presets) {
      const on = Number(button.dataset.low) === low && Number(button.dataset.high) === high;
      button.setAttribute("aria-pressed", String(on));
    }
  }

  function setWindow(low, high) {
    const [volume] = nv.volumes;
    volume.cal_min = low;
    volume.cal_max = high;
    nv.refreshLayers(volume, 0);
    nv.drawScene();
    showWindow();
  }

  const usePreset = ({ dataset }) => setWindow(Number(dataset.low), Number(dataset.high));

  // By the right button, as in a reading room: to the side the width, up and down the level.
  function dragWindow(event) {
    const { cal_min: low, cal_max: high } = nv.volumes[0];
    const width = Math.max(high - low + HU_PER_PIXEL * event.movementX, HU_PER_PIXEL);
    const level = (low + high) / 2 + HU_PER_PIXEL * event.movementY;
    setWindow(level - width / 2, level + width / 2);
  }

  // What lies below the crosshair; NiiVue's mm are RAS, those of the tables LPS.
  function tell({ mm, values }) {
    const place = [-mm[0], -mm[1], mm[2]].map((value) => value.toFixed(1).replace("-", "−"));
    const marked = kinds
      .map((kind) => [kind, Math.round(values[nv.volumes.indexOf(overlays[kind])].value)])
      .filter(([, id]) => id > 0)
      .map(([kind, id]) => kind[0].toUpperCase() + id);
    numberSlices();
    const state = byId("state");
    state.dataset.mm = `${mm[0]} ${mm[1]} ${mm[2]}`;
    const rib = ribAt(nv.scene.crosshairPos);
    const there = [...marked, ...(rib ? [`rib ${rib}`] : [])].join(" ");
    state.textContent = `${place.join(", ")} mm    ${rounded(values[0].value)} HU    ${there}`;
  }

  // Of the crosshair, in mm, so that it looks alike at each zoom.
  const lineWidth = () => (byId("crosshair").checked ? 1 / Number(byId("zoom").value) : 0);

  // A bar of a whole number of mm in each frame, a seventh of its width or more.
  function drawScales() {
    const canvas = byId("canvas").getBoundingClientRect();
    for (const frame of all(".frame").filter((frame) => frame.checkVisibility())) {
      const box = frame.getBoundingClientRect();
      const middle = [box.left + box.width / 2 - canvas.left, box.top + box.height / 2 - canvas.top];
      const [a, b] = [-10, 10].map((shift) => {
        const place = nv.canvasPos2frac([(middle[0] + shift) * nv.uiData.dpr, middle[1] * nv.uiData.dpr]);
        return nv.frac2mm(place);
      });
      const pixelsPerMm = 20 / Math.hypot(...[0, 1, 2].map((axis) => a[axis] - b[axis]));
      const mm = [1, 2, 5, 10, 20, 50].find((mm) => mm * pixelsPerMm > box.width / 7) ?? 100;
      const scale = frame.querySelector(".scale");
      scale.textContent = `${mm} mm`;
      scale.style.width = `${mm * pixelsPerMm}px`;
    }
  }

  // Slices as the page has them, counted from the left, from behind and from below.
  function numberSlices() {
    const voxel = nv.frac2vox(nv.scene.crosshairPos);
    const sizes = nv.volumes[0].dimsRAS.slice(1);
    for (const frame of all(".frame")) {
      const axis = { axial: 2, coronal: 1, sagittal: 0 }[frame.dataset.plane];
      frame.querySelector(".slice").textContent = `slice ${voxel[axis] + 1} of ${sizes[axis]}`;
    }
  }

  // Zoomed, the crosshair is in the middle.
  function zoom() {
    const factor = Number(byId("zoom").value);
    const here = nv.frac2mm(nv.scene.crosshairPos);
    const middle = nv.frac2mm([0.5, 0.5, 0.5]);
    const shift = [0, 1, 2].map((axis) => (factor === 1 ? 0 : middle[axis] - here[axis] * factor));
    nv.setPan2Dxyzmm([...shift, factor]);
    nv.setCrosshairWidth(lineWidth());
    drawScales();
  }

  function goTo(row) {
    for (const other of rows) other.classList.toggle("here", other === row);
    // Beside the pictures the list scrolls; below them, in a narrow window, it would take them out of view.
    const above = matchMedia("(max-width: 760px)").matches;
    (above ? byId("frames") : row).scrollIntoView({ block: "nearest" });
    // true: the patient's mm, also where a scan is tilted; NiiVue draws it upright, in mm of its own
    nv.scene.crosshairPos = nv.mm2frac(row.dataset.place.split(" ").map(Number), 0, true);
    zoom();
    nv.createOnLocationChange();
  }

  function step(direction) {
    const shown = rows.filter((row) => !row.hidden);
    const at = shown.findIndex((row) => row.classList.contains("here"));
    const next = at < 0 ? (direction > 0 ? 0 : shown.length - 1) : at + direction;
    if (shown[next]) goTo(shown[next]);
  }

  function stepSlice(direction) {
    const axis = { coronal: 1, sagittal: 0 }[byId("planes").value] ?? 2;
    nv.moveCrosshairInVox(...[0, 1, 2].map((other) => (other === axis ? direction : 0)));
  }

  function stepZoom(direction) {
    const slider = byId("zoom");
    if (direction > 0) slider.stepUp();
    else slider.stepDown();
    zoom();
  }

  function toggle(id) {
    byId(id).click();
  }

  const keys = {
    ArrowUp: () => stepSlice(1),
    ArrowDown: () => stepSlice(-1),
    n: () => step(1),
    p: () => step(-1),
    m: () => toggle("mask"),
    r: () => byId("ribs") && toggle("ribs"),
    x: () => toggle("crosshair"),
    "+": () => stepZoom(1),
    "-": () => stepZoom(-1),
  };
  for (const button of presets) keys[button.dataset.key] = () => usePreset(button);

  function listen() {
    nv.onLocationChange = tell;
    for (const button of presets) button.addEventListener("click", () => usePreset(button));
    for (const row of rows) row.addEventListener("click", () => goTo(row));
    byId("canvas").addEventListener("pointermove", (event) => { if (event.buttons === 2) dragWindow(event); });
    if (byId("ribs")) {
      byId("ribs").addEventListener("input", showRibs);
      byId("canvas").addEventListener("pointermove", nameRib);
      byId("canvas").addEventListener("pointerleave", () => { byId("rib-name").hidden = true; });
    }
    byId("planes").addEventListener("input", () => { arrange(); nv.drawScene(); drawScales(); });
    window.addEventListener("resize", () => requestAnimationFrame(drawScales));
    byId("zoom").addEventListener("input", zoom);
    for (const id of ["threshold", "mask", "opacity"]) byId(id).addEventListener("input", change);
    byId("crosshair").addEventListener("input", () => nv.setCrosshairWidth(lineWidth()));
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    // Before NiiVue, whose own keys would turn clip planes and the like.
    window.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input, select") && !["checkbox", "range"].includes(event.target.type);
      const sliding = event.target.type === "range" && event.key.startsWith("Arrow");
      if (typing || sliding || event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.target === byId("canvas")) event.stopImmediatePropagation();
      if (!(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    }, true);
    window.addEventListener("keyup", (event) => {
      if (event.target === byId("canvas")) event.stopImmediatePropagation();
    }, true);
  }

  try {
    await load();
    listen();
    showWindow();
    if (rows.some((row) => !row.hidden)) step(1);
    else nv.createOnLocationChange();
  } catch (error) {
    byId("state").textContent = `The scan cannot be shown: ${error.message} The viewer needs a browser with WebGL 2.`;
    throw error;
  }
})();
