package io.github.mimomobile.demo.models

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import java.io.File
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** What computes a model of a format, by its own name. */
fun engineOf(format: String): String = if (format == "gguf") "llama.cpp" else "ONNX Runtime"

/**
 * All models in a manifest that this app can load.
 *
 * @throws MimoException.ModelLoad There is none, or this is no manifest.
 */
fun recipesIn(text: String): List<ModelManifest> {
    val first = ModelManifest.parse(text)
    val names = try {
        JSONObject(text).getJSONArray("entries").recipes()
    } catch (_: JSONException) {
        emptyList() // what the library has read and Android has not
    }
    val others = names.filter { it != first.recipe }.distinct()
    return listOf(first) + others.mapNotNull { name ->
        try {
            ModelManifest.parse(text, name)
        } catch (_: MimoException.ModelLoad) {
            null // in a format that this app lacks, or in none
        }
    }
}

private fun JSONArray.recipes() = (0 until length()).map { getJSONObject(it).getString("recipe") }

/** Those whose files are in [folder]: an import brings one recipe, and the manifest names all. */
fun List<ModelManifest>.presentIn(folder: File): List<ModelManifest> =
    filter { recipe -> recipe.files.all { File(folder, it.path).isFile } }
