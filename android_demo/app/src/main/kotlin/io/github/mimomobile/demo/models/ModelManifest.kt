package io.github.mimomobile.demo.models

import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.ProblemException
import org.json.JSONException
import org.json.JSONObject

/** One file of a model; [path] is relative to the manifest. */
data class Part(val path: String, val sizeBytes: Long, val sha256: String)

/** The model for ONNX Runtime of a folder that `mimo quantize` wrote. [text] is the manifest as it stands. */
class ModelManifest private constructor(
    val text: String,
    val model: String,
    val recipe: String,
    val parts: List<Part>,
) {
    val sizeBytes: Long get() = parts.sumOf { it.sizeBytes }

    companion object {
        const val NAME = "manifest.json"
        private const val VERSION = 1

        /** @throws ProblemException It is no manifest, or has no model for ONNX Runtime. */
        fun parse(text: String): ModelManifest = try {
            val data = JSONObject(text)
            if (data.getInt("manifest_version") != VERSION) throw problem("another manifest_version")
            val list = data.getJSONArray("entries")
            val entries = (0 until list.length()).map(list::getJSONObject)
            val entry = entries.firstOrNull { it.getString("format") == "onnx" }
                ?: throw problem("no model for ONNX Runtime in it; make one with `mimo quantize --recipe int4_b32`")
            val parts = entry.getJSONArray("parts")
            ModelManifest(
                text = text,
                model = data.getString("model"),
                recipe = entry.getString("recipe"),
                parts = (0 until parts.length()).map { part(parts.getJSONObject(it)) },
            )
        } catch (error: JSONException) {
            throw problem("not what `mimo quantize` writes (${error.message})")
        }

        private fun part(data: JSONObject): Part {
            val path = data.getString("path")
            if (path.startsWith("/") || ".." in path.split('/')) throw problem("$path leads out of the folder")
            return Part(path, data.getLong("size_bytes"), data.getString("sha256"))
        }

        private fun problem(what: String) = ProblemException(Problem.Kind.MODEL, "$NAME: $what")
    }
}
