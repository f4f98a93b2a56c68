package io.github.mimomobile.demo.models

import android.content.ContentResolver
import android.content.res.AssetManager
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream

/** Where a model is copied from: files by their path. */
interface ModelSource {
    /** @throws IOException It is not there or cannot be read. */
    fun open(path: String): InputStream

    /** Deletes what was moved; false when the source keeps it. */
    fun delete(path: String): Boolean
}

/** A folder in the APK. */
class AssetSource(private val assets: AssetManager, private val root: String) : ModelSource {
    override fun open(path: String): InputStream = assets.open("$root/$path", AssetManager.ACCESS_STREAMING)

    override fun delete(path: String) = false
}

/** A folder that the user picked: on the phone, an SD card, a USB stick or in a cloud. */
class TreeSource(private val resolver: ContentResolver, private val tree: Uri) : ModelSource {
    private val root = DocumentsContract.getTreeDocumentId(tree)

    /** Children of a folder, by name; listed once, as providers may be slow. */
    private val listed = HashMap<String, Map<String, String>>()

    override fun open(path: String): InputStream = asking(path) {
        resolver.openInputStream(uri(path)) ?: throw FileNotFoundException("$path: the provider gives no data")
    }

    override fun delete(path: String): Boolean = try {
        DocumentsContract.deleteDocument(resolver, uri(path))
    } catch (_: IOException) {
        false
    } catch (_: RuntimeException) {
        false // read only, or failing otherwise: other apps' code; the copy is whole all the same
    }

    private fun uri(path: String): Uri {
        val id = path.split('/').fold(root) { folder, name ->
            listed.getOrPut(folder) { children(folder) }[name]
                ?: throw FileNotFoundException("$path is missing in the folder; copy all of it")
        }
        return DocumentsContract.buildDocumentUriUsingTree(tree, id)
    }

    private fun children(folder: String): Map<String, String> {
        val uri = DocumentsContract.buildChildDocumentsUriUsingTree(tree, folder)
        val columns = arrayOf(Document.COLUMN_DISPLAY_NAME, Document.COLUMN_DOCUMENT_ID)
        val cursor = resolver.query(uri, columns, null, null) ?: throw IOException("$folder: cannot be listed")
        return cursor.use {
            buildMap { while (it.moveToNext()) put(it.getString(0), it.getString(1)) }
        }
    }
}
